"""Damage to a file: to its bytes, to text, to values of JSON and YAML; which, a random generator says."""

import io
import json
import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from random import Random

from ruamel.yaml import YAML

# Damage to bytes


def flip(random: Random, data: bytes) -> bytes:
    place = random.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << random.randrange(8)]) + data[place + 1 :]


def overwrite(random: Random, data: bytes) -> bytes:
    start = random.randrange(len(data))
    end = min(len(data), start + random.choice((1, 4, 16, 200, 1000)))
    return data[:start] + random.choice((random.randbytes, bytes))(end - start) + data[end:]


def truncate(random: Random, data: bytes) -> bytes:
    return data[: random.choice((random.randrange(len(data)), len(data) - 1, 0))]


def extend(random: Random, data: bytes) -> bytes:
    return data + random.choice((b"\0", b"\n", random.randbytes(50), data[:100], data))


# Damage to text

NUMBERS = ("0", "-1", "1", "2", "0.5", "1e400", "-1e400", "1e-320", "NaN", "9" * 5000, "0x10", "1_0", "٣", "01", "1e5")
STRAY = (b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\0", b"\r", b"\x1b[2J", "\u2028".encode(), "\u0085".encode())
NESTED = (b"[", b'{"a":', b"{", b"- ", b"!!a ", b"&a ")


def number(random: Random, data: bytes) -> bytes:
    found = [match.span() for match in re.finditer(rb"-?\d+(\.\d+)?(e-?\d+)?", data)] or [(0, 0)]
    start, end = random.choice(found)
    return data[:start] + random.choice(NUMBERS).encode() + data[end:]


def delete_line(random: Random, data: bytes) -> bytes:
    lines = data.splitlines(keepends=True)
    del lines[random.randrange(len(lines))]
    return b"".join(lines)


def stray(random: Random, data: bytes) -> bytes:
    place = random.randrange(len(data) + 1)
    return data[:place] + random.choice(STRAY) + data[place:]


def nest(random: Random, data: bytes) -> bytes:
    place = random.choice([0, len(data), *(match.start() for match in re.finditer(rb'["\d]', data))])
    return data[:place] + random.choice(NESTED) * 30_000 + data[place:]


# Damage to values of JSON and YAML

VALUES = (
    None, True, False, 0, 1, 2, -1, 0.5, -0.0, 5e-324, 1e308, 2**31, 2**63, 10**30, 10**400, "", "text", "1", "null",
    "x" * 300, "x" * 100_000, "\0", "two\nlines", "\x1b[31m", "..", "/", "é", [], [1], [None], ["text", "text"], [[]],
    {}, {"a": 1},
)  # fmt: skip


def json_value(random: Random, data: bytes) -> bytes:
    document = json.loads(data)
    _change(random, document)
    return json.dumps(document, indent=random.choice((None, 2))).encode()


def yaml_value(random: Random, data: bytes) -> bytes:
    document, out = YAML(typ="safe").load(data), io.BytesIO()
    _change(random, document)
    YAML(typ="safe").dump(document, out)
    return out.getvalue()


def _change(random: Random, document: dict) -> None:
    """Delete a key, or give it one of VALUES or what another key has."""
    found = list(_places(document))
    inside, last = random.choice(found)
    if random.random() < 0.1:
        del inside[last]
    else:
        other, key = random.choice(found)
        inside[last] = deepcopy(other[key] if random.random() < 0.25 else random.choice(VALUES))


def _places(value: object) -> Iterator[tuple[dict | list, object]]:
    """Every dict and list with each of its keys and indices."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield value, key
        yield from _places(item)


BYTES = (flip, flip, overwrite, truncate, extend)
TEXT = (*BYTES, number, number, delete_line, delete_line, stray, stray, nest)
DAMAGES = {
    ".json": (*TEXT, *[json_value] * 16), ".yaml": (*TEXT, *[yaml_value] * 24),
    ".txt": TEXT, ".csv": TEXT, ".jsonl": TEXT, "SHA256SUMS": TEXT,
}  # fmt: skip


def damage(random: Random, path: Path) -> str:
    """Damage one file, or put something else in its place; says how."""
    data = path.read_bytes()
    if random.random() < 0.1:
        path.unlink()
        what = random.choice(("deleted", "a folder", "a folder with the file", "a link to nothing"))
        if "folder" in what:
            path.mkdir()
        if "with" in what:
            (path / "a.txt").write_bytes(data)
        if "link" in what:
            path.symlink_to("nothing")
        return what
    how = random.choice(DAMAGES.get(path.name, DAMAGES.get(path.suffix, BYTES))) if data else extend
    path.write_bytes(how(random, data))
    return how.__name__
