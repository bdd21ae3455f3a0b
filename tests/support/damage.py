"""Damage to a file: to its bytes, to text, to values of JSON and YAML; which, a random generator says."""

import io
import json
import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from random import Random

from ruamel.yaml import YAML

NUMBERS = ("0", "-1", "1", "2", "0.5", "1e400", "-1e400", "1e-320", "NaN", "9" * 5000, "0x10", "1_0", "٣", "01", "1e5")
STRAY = (b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\0", b"\r", b"\x1b[2J", "\u2028".encode(), "\u0085".encode())
NESTED = (b"[", b'{"a":', b"{", b"- ", b"!!a ", b"&a ")
VALUES = (
    None, True, False, 0, 1, 2, -1, 0.5, -0.0, 5e-324, 1e308, 2**31, 2**63, 10**30, 10**400, "", "text", "1", "null",
    "x" * 300, "x" * 100_000, "\0", "two\nlines", "\x1b[31m", "..", "/", "é", [], [1], [None], ["text", "text"], [[]],
    {}, {"a": 1},
)  # fmt: skip


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
    kind = path.suffix or path.name
    if kind in (".json", ".yaml") and random.random() < 0.6:
        how, new = "value", _change_value(random, data, kind)
    else:
        text = kind in (".json", ".yaml", ".txt", ".csv", ".jsonl", "SHA256SUMS")
        how, new = random.choice(_damaged(random, data or b"\n", text))
    path.write_bytes(new)
    return how


def _damaged(random: Random, data: bytes, text: bool) -> list[tuple[str, bytes]]:
    """Kinds of damage to bytes, and to text, each with what it makes of the data."""
    place, size = random.randrange(len(data)), random.choice((1, 4, 16, 200, 1000))
    end = min(len(data), place + size)
    flipped = bytes([data[place] ^ 1 << random.randrange(8)])
    kinds = [
        ("flipped bit", data[:place] + flipped + data[place + 1 :]),
        ("overwritten", data[:place] + random.choice((random.randbytes, bytes))(end - place) + data[end:]),
        ("cut", data[: random.choice((place, len(data) - 1, 0))]),
        ("extended", data + random.choice((b"\0", b"\n", random.randbytes(50), data[:100], data))),
    ]
    if text:
        lines = data.splitlines(keepends=True)
        numbers = [match.span() for match in re.finditer(rb"-?\d+(\.\d+)?(e-?\d+)?", data)] or [(0, 0)]
        (first, last), line = random.choice(numbers), random.randrange(len(lines))
        kinds += [
            ("number", data[:first] + random.choice(NUMBERS).encode() + data[last:]),
            ("line deleted", b"".join(lines[:line] + lines[line + 1 :])),
            ("stray bytes", data[:place] + random.choice(STRAY) + data[place:]),
            ("nested", data[:place] + random.choice(NESTED) * 30_000 + data[place:]),
        ]
    return kinds


def _change_value(random: Random, data: bytes, kind: str) -> bytes:
    """Delete a key of a JSON or YAML document, or give it one of VALUES or what another key has."""
    document = json.loads(data) if kind == ".json" else YAML(typ="safe").load(data)
    places = list(_places(document))
    inside, key = random.choice(places)
    if random.random() < 0.1:
        del inside[key]
    else:
        other, its_key = random.choice(places)
        inside[key] = deepcopy(other[its_key] if random.random() < 0.25 else random.choice(VALUES))
    if kind == ".json":
        return json.dumps(document, indent=random.choice((None, 2))).encode()
    YAML(typ="safe").dump(document, out := io.BytesIO())
    return out.getvalue()


def _places(value: object) -> Iterator[tuple[dict | list, object]]:
    """Every dict and list inside a value, with each of its keys and indices."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield value, key
        yield from _places(item)
