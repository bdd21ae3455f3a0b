"""What another result than the undamaged one has to be to be right, by readers that are not the project's."""

import csv
import gzip
import io
import json
import re
from dataclasses import asdict, is_dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet
from ruamel.yaml import YAML
from small_project import TINY, Project

from nanogpt.data.tokens.tokenizer import load_tokenizer
from nanogpt.pipeline.sections import SECTIONS
from nanogpt.runtime import params


def nothing_else(project: Project, path: Path, command: str) -> str:
    return "another result"


def anything(project: Project, path: Path, command: str) -> str:
    return ""


def as_read(project: Project, path: Path, command: str) -> str:
    """The settings are those that another reader finds in the file."""
    given = vars(params.load(path, **SECTIONS))
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
    tok = load_tokenizer(project.folder / "data/new/tokenizer")
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
