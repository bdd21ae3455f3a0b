"""Damaged inputs, each through a real stage: refused in one line, or the result that the undamaged one gives.

    python tests/mutations.py --cases 300 --seed 1    # a table; status 1 where a case went wrong
    python tests/mutations.py --seed 1 --case 17      # that one again, its folder kept

A case is a function of seed and number. This process imports what the stages import and computes nothing with it:
every stage is a fork of it, which starts in an instant.
"""

import argparse
import csv
import gzip
import io
import json
import os
import re
import resource
import runpy
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from dataclasses import asdict, dataclass, is_dataclass
from itertools import pairwise
from pathlib import Path
from random import Random

import numpy as np
import pandas  # noqa: F401  stages import it late, and so it is here before they fork
import peft  # noqa: F401  the same
import pyarrow.parquet
import torch._dynamo
from imports import ROOT
from ruamel.yaml import YAML

sys.path.append(str(ROOT))  # where this file is run and not imported

from clone import SMALL, Clone
from record_files import pack, written

from nanogpt import params, scratch, settings, tokenizer, train
from nanogpt.corpus import hub
from nanogpt.corpus.pages import Pages

LIMIT_SECONDS = 60
LIMIT_BYTES = 12 << 30  # of addresses: libraries take 3 GiB, and a small file may not ask for much more

# Damage to bytes


def flip(random: Random, data: bytes) -> bytes:
    place = random.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << random.randrange(8)]) + data[place + 1 :]


def overwrite(random: Random, data: bytes) -> bytes:
    start, end = _part(random, data)
    return data[:start] + random.choice((random.randbytes, bytes))(end - start) + data[end:]


def truncate(random: Random, data: bytes) -> bytes:
    return data[: random.choice((random.randrange(len(data)), len(data) - 1))]


def extend(random: Random, data: bytes) -> bytes:
    return data + random.choice((b"\0", b"\n", random.randbytes(50), data[:100], data))


def double(random: Random, data: bytes) -> bytes:
    start, end = _part(random, data)
    return data[:end] + data[start:]


def swap(random: Random, data: bytes) -> bytes:
    start, end = _part(random, data)
    to = random.randrange(end, len(data) + 1)
    size = min(end - start, len(data) - to)
    return data[:start] + data[to : to + size] + data[end:to] + data[start:end] + data[to + size :]


def empty(random: Random, data: bytes) -> bytes:
    return b""


def _part(random: Random, data: bytes) -> tuple[int, int]:
    start = random.randrange(len(data))
    return start, min(len(data), start + random.choice((1, 4, 16, 200, 1000)))


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


def double_line(random: Random, data: bytes) -> bytes:
    lines = data.splitlines(keepends=True)
    lines.insert(random.randrange(len(lines) + 1), random.choice(lines))
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


def jsonl_value(random: Random, data: bytes) -> bytes:
    lines = data.splitlines()
    place = random.randrange(len(lines))
    lines[place] = json_value(random, lines[place]).replace(b"\n", b"")
    return b"\n".join(lines)


def yaml_value(random: Random, data: bytes) -> bytes:
    document, out = YAML(typ="safe").load(data), io.BytesIO()
    _change(random, document)
    YAML(typ="safe").dump(document, out)
    return out.getvalue()


def _change(random: Random, document: dict) -> None:
    """Delete a key, or give it one of VALUES or what another key has."""
    found = list(places(document))
    *path, last = random.choice(found)
    inside = at(document, path)
    if random.random() < 0.1:
        del inside[last]
    else:
        new = at(document, random.choice(found)) if random.random() < 0.25 else random.choice(VALUES)
        inside[last] = deepcopy(new)


def places(value: object, path: tuple = ()) -> Iterator[tuple]:
    """The paths of all values inside nested dicts and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def at(document: object, path: tuple) -> object:
    for key in path:
        document = document[key]
    return document


BYTES = (flip, flip, overwrite, truncate, extend, double, swap, empty)
TEXT = (*BYTES, number, number, delete_line, delete_line, double_line, stray, stray, nest)
DAMAGES = {
    ".json": (*TEXT, *[json_value] * 16), ".jsonl": (*TEXT, *[jsonl_value] * 8), ".yaml": (*TEXT, *[yaml_value] * 24),
    ".txt": TEXT, ".csv": TEXT, "SHA256SUMS": TEXT,
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


# Settings at the edge of what they may be, for the stage that uses them

STAGE_OF = {"data": "prepare", "tokenizer": "prepare", "lora": "lora_finetune", "sample": "sample"}
UNUSED = {"benchmark", "tinystories", "scientific_papers", "arxiv_api", "shakespeare"}
WORK = {  # more of these is more work, and no mistake
    "max_steps", "batch_size", "grad_accum", "n_layer", "n_head", "n_kv_head", "n_embd", "block_size", "vocab_size",
    "num_samples", "max_tokens", "r",
}  # fmt: skip
EDGES = {
    bool: (True, False),
    int: (0, -1, 1, 2, 2**31, 2**32, 2**63, 10**30, 10**400),
    float: (0.0, -1.0, 5e-324, 1e-300, 1e-30, 0.5, 1 - 2**-53, 1, 1e30, 1e308),
    str: ("", "x", "\0", "x" * 5000, "two\nlines", "..", "/", "é", "\ud83d", "1s", "auto", "9" * 400 + "s", "0.1 s"),
    list: ([], [""], ["x"], ["\0"], ["Once", "Once"], ["text", "title"], ["head", "lm_head"], ["é" * 300], ["\ud83d"]),
    type(None): (1, 0.5, 0, 10**30, 5e-324),
}


def edge(random: Random, project: "Project") -> tuple[str, str]:
    """Give a setting a value at the edge; which, and the stage that uses it."""
    document = YAML(typ="safe").load(project.folder / "params.yaml")
    found = [path for path in places(document) if not UNUSED & set(path) and all(isinstance(key, str) for key in path)]
    path = random.choice([path for path in found if not isinstance(at(document, path), dict)])
    new = random.choice((0, -1, 1, 2, 3) if path[-1] in WORK else EDGES[type(at(document, path))])
    project.set(**{".".join(path): new})
    return f"{'.'.join(path)} = {new!r:.60}", STAGE_OF.get(path[0], "pretrain")


# The project

TINY = SMALL | {
    "data.pretrain.num_samples": 60, "data.finetune.num_samples": 40, "tokenizer.vocab_size": 320,
    "model.block_size": 32, "train.max_steps": 3, "train.dtype": "float32", "train.compile": "off",
    "train.threads": 1, "train.device": "cpu", "train.checkpoint_every": 1, "sample.prompts": ["Once upon a time"],
}  # fmt: skip
VARIANTS = {
    "base": {},
    "optimized": {
        "model.arch": "optimized", "model.tie_embeddings": False, "tokenizer.kind": "char",
        "tokenizer.unknown": "replace", "checkpoint.format": "pt", "lora.kind": "dora",
    },
}  # fmt: skip
BEGUN = ".work.begun"  # in the place of .work it is that of two runs that were stopped after two steps
OWN = [f"“Tea,” said the cat, “for {i}, at {i % 12} o'clock.”\n\nThe dog — naïve as ever — came." for i in range(40)]
TIMES = {"tokens_per_s", "overhead_share", "first_step_s", "validation_s", "saving_s", "peak_mib", "wall_s"}


class Project(Clone):
    """A folder outside DVC; `set` changes its settings."""

    def __init__(self, folder: Path):
        self.folder = folder

    def make(self, variant: str) -> None:
        """All that the pipeline makes, runs that were stopped, own texts, fetched ones."""
        self.folder.mkdir(parents=True)
        shutil.copy(ROOT / "params.yaml", self.folder)
        self.set(**TINY | VARIANTS[variant])
        (self.folder / "data/own/model").mkdir(parents=True)
        self._own_texts()
        one = "convert --checkpoint models/pretrain --out models/one.pt"
        for command in ("check", "prepare", "pretrain", "lora_finetune", "merge", "sample", one):
            self._run(command)
        self._run("check", before=self._fetch)
        shutil.copytree(self.folder / ".work", self.folder / BEGUN)
        for command in ("pretrain", "lora_finetune"):
            self._run(command, stopped, 130)
        for kind in ("pretrain", "lora-finetune"):
            (self.folder / ".work" / kind).rename(self.folder / BEGUN / kind)

    def _run(self, command: str, before: Callable[[], None] = lambda: None, status: int = 0) -> None:
        done = run(self.folder, command, before)
        assert done.status == status, f"{command}: {done.err}"

    def _own_texts(self) -> None:
        (self.folder / "own").mkdir()
        contents = {f"a{kind}": written(kind, OWN) for kind in (".txt", ".jsonl", ".csv", ".parquet")}
        contents["b.txt"] = "\n\n".join(text.replace("\n\n", "\n") for text in OWN).encode()
        for name, packed in (("a.txt", ".gz"), ("a.jsonl", ".gz"), ("a.csv", ".zst"), ("a.jsonl", ".zst")):
            contents[name + packed] = pack(contents[name], packed)
        for name, content in contents.items():
            (self.folder / "own" / name).write_bytes(content)

    def _fetch(self) -> None:
        """Two pages as if they came from the hub; in a process whose working folder is the project's."""
        own = params.load(data=settings.Data).data.tinystories
        pages = Pages(scratch.folder("corpora", "tinystories", asdict(own)))
        state = {"revision": "1" * 40, "licence": "free", "position": [0, 0], "skipped": 0}
        pages.append(OWN[:20], state | {"documents": 20})
        pages.append(OWN[20:], state | {"documents": 40, "end": True})

    def files(self, printed: str = "") -> dict[str, object]:
        """The content of every file but those in .work, without times and cards of .pt files, and what was printed."""
        found = {"stdout": printed}
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            if path.is_file() and not name.startswith(".work"):
                found[name] = path.read_bytes()
                if path.name in ("pretrain.json", "lora-finetune.json"):
                    figures = json.loads(found[name])
                    found[name] = {key: figure for key, figure in figures.items() if key not in TIMES}
                if path.suffix == ".pt":
                    with suppress(Exception):  # damaged
                        found[name] = _without_card(path)
        return found


def _without_card(path: Path) -> dict:
    """What a .pt file holds besides words that hashes stand in."""
    content = torch.load(path, weights_only=True)
    weights = {name: tensor.numpy().tobytes() for name, tensor in content.pop("model").items()}
    return content | weights | {"card": None}


# A stage in a fork


@dataclass(frozen=True)
class Done:
    """How a stage ended; the status is -9 where it was stopped at LIMIT_SECONDS."""

    status: int
    out: str
    err: str
    seconds: float


def run(folder: Path, command: str, before: Callable[[], None] = lambda: None) -> Done:
    """Do what `python -m stages.<command>` does in a folder, after `before`."""
    start = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        sys.stdout.flush()
        pid = os.fork()
        if not pid:
            _be_stage(folder, command.split(), before, out.fileno(), err.fileno())
        while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
            if time.monotonic() - start > LIMIT_SECONDS:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.003)
        texts = [os.pread(file.fileno(), 1 << 24, 0).decode(errors="replace") for file in (out, err)]
    return Done(os.waitstatus_to_exitcode(ended[1]), *texts, time.monotonic() - start)


def _be_stage(folder: Path, words: list[str], before: Callable[[], None], out: int, err: int) -> None:
    status = 70
    try:
        os.chdir(folder)
        os.dup2(out, 1)
        os.dup2(err, 2)
        resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
        socket.socket.connect, hub.PATIENCE = _refused, 0
        before()
        sys.argv = [f"{words[0]}.py", *words[1:]]
        runpy.run_module(f"stages.{words[0]}", run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
        if not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
    except BaseException:
        status = 1
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _refused(*_) -> None:
    raise ConnectionRefusedError("no test goes to the network")


def stopped() -> None:
    """Let this process be interrupted in its third step of training."""
    steps, update = [], train.update

    def until_third(*args):
        steps.append(args)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return update(*args)

    train.update = until_third


# What another result has to be to be right


def nothing_else(project: Project, path: Path, command: str) -> str:
    return "another result"


def anything(project: Project, path: Path, command: str) -> str:
    return ""


def as_read(project: Project, path: Path, command: str) -> str:
    """The settings are those that another reader finds in the file."""
    given = vars(params.load_all(path, **settings.SECTIONS))
    found = {name: asdict(value) if is_dataclass(value) else value for name, value in given.items()}
    return "" if _same(found, YAML(typ="safe", pure=True).load(path)) else "settings that the file does not give"


def _same(one: object, other: object) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return one == other and (type(one) is type(other) or (type(one), type(other)) == (float, int))


def as_written(project: Project, path: Path, command: str) -> str:
    """The bins hold the texts that another reader finds in the file."""
    path = path / "a.txt" if path.is_dir() else path
    try:
        texts = [text.strip() for text in texts_of(path, strict="--no-strict" not in command)]
    except (ValueError, LookupError, TypeError, OSError, EOFError, csv.Error, pyarrow.ArrowException) as error:
        return f"taken, and another reader says {error!r:.200}"
    every = round(1 / TINY["data.pretrain.val_fraction"])
    expected, known = {"train": [], "val": []}, set()
    for i, text in enumerate(filter(None, texts)):
        expected["train" if i % every else "val"] += [text] if text not in known else []
        known.add(text)
    tok = tokenizer.load(project.folder / "data/new/tokenizer")
    for split, documents in expected.items():
        ids = np.fromfile(project.folder / f"data/new/{split}.bin", "<u2")
        found = [tok.decode(part[1:].tolist()) for part in np.split(ids, np.flatnonzero(ids == tok.eot))[1:-1]]
        if found != documents:
            return f"not the documents in {split}.bin that another reader finds"
    return ""


def texts_of(path: Path, strict: bool) -> list[str]:
    """What a file of own text holds. Raises all kinds of errors where it is damaged."""
    if path.suffix == ".parquet":
        return pyarrow.parquet.read_table(path).column("text").to_pylist()
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    if path.suffix == ".zst":
        content = pyarrow.CompressedInputStream(io.BytesIO(content), "zstd").read()
    text = content.removeprefix(b"\xef\xbb\xbf").decode(errors="strict" if strict else "surrogateescape")
    lines = text.split("\n")
    if ".csv" in path.name:
        return [row["text"] for row in csv.DictReader(io.StringIO(text.replace("\r\n", "\n"), ""), strict=True)]
    if ".jsonl" in path.name:
        return [found for line in lines if line.strip() for found in _of_json(line, strict)]
    end = "<|endoftext|>" if "<|endoftext|>" in map(str.strip, lines) else ""
    ends = [-1, *(i for i, line in enumerate(lines) if line.strip() == end), len(lines)]
    pieces = ["\n".join(lines[before + 1 : after]) for before, after in pairwise(ends)]
    return [piece.replace("\r\n", "\n") for piece in pieces if _whole(piece)]


def _of_json(line: str, strict: bool) -> list[str]:
    try:
        text = json.loads(line)["text"]
        text.strip()
        return [text] if _whole(text) and _whole(line) else []
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        if strict:
            raise ValueError("no text") from error
        return []


def _whole(text: str) -> bool:
    return not re.search("[\ud800-\udfff]", text)


# What is damaged, and what reads it


@dataclass(frozen=True)
class Kind:
    """Files, one of which is damaged, and commands, one of which reads it then.

    `other` says what is wrong with another result than the undamaged gives, "" where it is right. `without` are files
    that are removed before, and `begun` says that there are runs to go on with.
    """

    name: str
    files: tuple[str, ...]
    commands: tuple[str, ...]
    other: Callable[[Project, Path, str], str] = nothing_else
    without: str = ""
    begun: bool = False


TOKENS = ("data/pretrain/tokenizer/*",)
BINS = ("data/*/*.bin", "data/*/manifest.json", "data/*/manifest.json")
READ_BINS = ("pretrain", "lora_finetune", "merge", "sample")
MODEL, NEW = ("models/pretrain/*",), "--out models/new"
READ_FILE = ("sample --checkpoint {}", f"convert --checkpoint {{}} {NEW}", f"pretrain --init-from {{}} {NEW}")
READ_MODEL = ("lora_finetune", "merge", "sample", *(command.format("models/pretrain") for command in READ_FILE))
ADAPTER = ("models/lora/*",)
READ_ADAPTER = ("merge", "merge --base-checkpoint models/pretrain", "sample", "sample --also models/lora")
FETCHED = "prepare --source tinystories --num-samples 30 --out data/new"
PREPARE = "prepare --path {} --out data/new"
KINDS = (
    Kind("params.yaml", ("params.yaml",), ("check",), as_read),
    Kind("settings in use", ("params.yaml",), (), anything),
    Kind("bins", (*BINS, "data/*/SHA256SUMS"), READ_BINS),
    Kind("tokenizer", TOKENS, ("pretrain", "prepare --role finetune")),
    Kind("bins without sums", (*BINS, *TOKENS), (*READ_BINS, "prepare --role finetune"), anything, "data/*/SHA256SUMS"),
    Kind("model", MODEL, READ_MODEL),
    Kind("model without sums", MODEL, READ_MODEL, anything, "models/pretrain/SHA256SUMS"),
    Kind("model as .pt file", ("models/one.pt",), (*READ_FILE, f"lora_finetune --base-checkpoint {{}} {NEW}")),
    Kind("adapter", ADAPTER, READ_ADAPTER),
    Kind("adapter without sums", ADAPTER, READ_ADAPTER, anything, "models/lora/SHA256SUMS"),
    Kind("saved state", (".work/pretrain/*/*",), ("pretrain", "pretrain", "pretrain --seed 2"), begun=True),
    Kind("saved adapter state", (".work/lora-finetune/*/*",), ("lora_finetune", "lora_finetune --r 1"), begun=True),
    Kind("measured rates", (".work/rates/*/*",), ("pretrain",), anything),
    Kind("fetched pages", (".work/corpora/*/*",), (FETCHED,)),
    *(
        Kind(f"own {ending}", (f"own/*.{ending}",), (PREPARE, f"{PREPARE} --no-strict")[:ways], as_written)
        for ending, ways in {"txt": 2, "jsonl": 2, "csv": 1, "gz": 1, "zst": 1, "parquet": 1}.items()
    ),
)  # fmt: skip

# Cases

RIGHT = ("refused", "same", "other")


@dataclass(frozen=True)
class Result:
    """A case: what was damaged how, what read it, how that ended, and one of RIGHT or else what is wrong."""

    kind: str
    damaged: str
    command: str
    done: Done
    verdict: str


class Cases:
    """Makes the projects that cases begin with in a folder, and runs them there."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._known: dict[tuple, dict] = {}
        for variant in VARIANTS:
            Project(folder / variant).make(variant)

    def run(self, seed: int, number: int, keep: bool = False) -> Result:
        """One case; `keep` leaves its folder, `case`."""
        random, kind = Random(f"{seed} {number}"), KINDS[number % len(KINDS)]
        variant = random.choice(list(VARIANTS))
        project = self._copy("case", variant, kind)
        if kind.commands:
            files = [file for pattern in kind.files for file in [sorted(project.folder.glob(pattern))] if file]
            path = random.choice(random.choice(files))
            name = path.relative_to(project.folder).as_posix()
            command = random.choice(kind.commands).format(name)
            damaged = f"{name}: {damage(random, path)}"
        else:
            path, name = project.folder / "params.yaml", "params.yaml"
            damaged, command = edge(random, project)
        before = project.files()
        done = run(project.folder, command)
        verdict = judge(done, before, project.files(done.out), self._undamaged(variant, kind, command), name)
        if verdict.startswith("another result"):
            verdict = f"{wrong}: {verdict}" if (wrong := kind.other(project, path, command)) else "other"
        if not keep:
            shutil.rmtree(project.folder)
        return Result(kind.name, f"{variant}, {damaged}", command, done, verdict)

    def _copy(self, name: str, variant: str, kind: Kind) -> Project:
        project = Project(self.folder / name)
        shutil.copytree(self.folder / variant, project.folder)
        if kind.begun:
            shutil.rmtree(project.folder / ".work")
            (project.folder / BEGUN).rename(project.folder / ".work")
        for path in project.folder.glob(kind.without) if kind.without else ():
            path.unlink()
        return project

    def _undamaged(self, variant: str, kind: Kind, command: str) -> dict[str, object]:
        key = (variant, kind.without, kind.begun, command)
        if key not in self._known:
            project = self._copy("undamaged", variant, kind)
            done = run(project.folder, command)
            assert done.status == 0, f"{command}: {done.err}"
            self._known[key] = project.files(done.out)
            shutil.rmtree(project.folder)
        return self._known[key]


def judge(done: Done, before: dict, after: dict, expected: dict, damaged: str) -> str:
    """refused, same, or what is wrong."""
    lines = done.err.splitlines()
    if done.status == -signal.SIGKILL:
        return f"no end after {LIMIT_SECONDS} s"
    if "Traceback" in done.err or done.status not in (0, 1):
        return f"status {done.status}: {lines[-1] if lines else ''}"
    errors = [line for line in lines if line.startswith("error: ")]
    if done.status:
        if changed := _differing(before, after | {"stdout": ""}):
            return f"refused, and changed {', '.join(changed)}"
        one = len(errors) == 1 and errors == lines[-1:] and errors[0].isprintable()
        return "refused" if one else f"refused, and not in one line: {done.err[-500:]!r}"
    if errors:
        return f"status 0 after {errors}"
    changed = [name for name in _differing(expected, after) if not f"{name}/".startswith(f"{damaged}/")]
    if damaged.endswith("README.md"):  # anyone may edit it, and what is merged quotes it
        changed = [name for name in changed if not name.endswith(("README.md", "SHA256SUMS"))]
    if damaged.endswith(".pt"):  # the hash of the whole file stands in these
        changed = [name for name in changed if not name.endswith(("README.md", "SHA256SUMS", "base.json"))]
    return f"another result: {', '.join(changed)}" if changed else "same"


def _differing(one: dict, other: dict) -> list[str]:
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def table(results: list[Result]) -> str:
    lines = [f"{'damaged':20}" + "".join(f"{title:>9}" for title in ("cases", *RIGHT, "wrong"))]
    for kind in [*(kind.name for kind in KINDS), "all"]:
        counts = Counter(result.verdict for result in results if kind in (result.kind, "all"))
        right = [counts[verdict] for verdict in RIGHT]
        lines.append(f"{kind:20}" + "".join(f"{n:9}" for n in (counts.total(), *right, counts.total() - sum(right))))
    return "\n".join(lines)


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--cases", type=int, default=300, help="how many, from number 0 on (default: %(default)s)")
    flags.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    flags.add_argument("--case", type=int, help="this number alone, and all about it")
    args = flags.parse_args()
    torch.set_num_threads(1)
    sys.dont_write_bytecode = True
    start = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="mutations."))
    cases, results = Cases(folder), []
    begun = time.monotonic()
    for number in range(args.cases) if args.case is None else [args.case]:
        results.append(result := cases.run(args.seed, number, keep=args.case is not None))
        if result.verdict not in RIGHT:
            how = f"--seed {args.seed} --case {number}: {result.command}, {result.damaged}"
            print(f"{how}: {result.verdict}", flush=True)
    if args.case is None:
        shutil.rmtree(folder)
        took, slowest = time.monotonic() - begun, max(result.done.seconds for result in results)
        print(table(results))
        print(f"{begun - start:.0f} s to begin, {took:.0f} s for the cases, {slowest:.1f} s the slowest")
    else:
        print(*(f"{name}: {value}" for name, value in vars(result).items()), f"in {folder / 'case'}", sep="\n")
    sys.exit(any(result.verdict not in RIGHT for result in results))


if __name__ == "__main__":
    main()
