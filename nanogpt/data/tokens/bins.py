"""Bins, opened for reading: a corpus as two flat files of token ids.

A stream is eot, document, eot, document, eot …, little-endian uint16, or uint32 where the vocabulary needs it.
`manifest.json` beside the bins says what they hold. Of conversations, `<split>-prompts.bin` has the number of tokens of
each document that come before its answer, and are not learned, as little-endian uint32.
"""

import contextlib
import itertools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from nanogpt.data.tokens.tokenizer import Tokenizer, load_tokenizer
from nanogpt.runtime.checksums import sha256, verify_checksums
from nanogpt.runtime.errors import UserError

SPLITS = ("train", "val")
REMEDY = "prepare the text again; in the pipeline by `dvc repro --force prepare`, or by `dvc checkout` as it was"
CHUNK = 1 << 22  # tokens searched at a time for the ends of documents
DTYPES = {"uint16": "<u2", "uint32": "<u4"}


@dataclass
class Counts:
    """What a bin holds: `tokens` with the end tokens, `bytes` of UTF-8 without them.

    `bits` is the sum of `Document.bits`, None where one is unknown; `replaced` are characters that
    the tokenizer does not know; `sha256` is that of the file, `prompts_sha256` that of the prompts' file, "" for none.
    """

    documents: int = 0
    tokens: int = 0
    bytes: int = 0
    bits: float | None = 0.0
    replaced: int = 0
    bytes_per_token: float = 0.0
    sha256: str = ""
    prompts_sha256: str = ""


@dataclass(frozen=True)
class Bin:
    """One bin, open for reading.

    `tokens` is (len,) uint16 or uint32, mapped from the file and read-only; `eot` is the end token;
    `source`, `counts` and `licence` are what the manifest says of it. `prompts` is None, or (documents,) uint32: how
    many tokens of each document come before the answer that is learned.
    """

    source: str
    split: str
    tokens: np.ndarray
    eot: int
    counts: Counts
    licence: str = ""
    prompts: np.ndarray | None = None

    @classmethod
    def open(cls, folder: os.PathLike | str, split: str, tokenizer: Tokenizer) -> "Bin":
        """Map `<split>.bin` of a folder that `prepare_corpus` wrote.

        Raises UserError where it is missing, damaged, or written with another tokenizer.
        """
        folder = Path(folder)
        manifest, counts, dtype = _read_manifest(folder, split)
        path = folder / f"{split}.bin"
        if not path.exists():
            raise UserError(f"{path} does not exist; {REMEDY}")
        if manifest["tokenizer_sha256"] != tokenizer.sha256:
            raise UserError(
                f"{folder}: its tokens are of another tokenizer ({manifest['tokenizer']}) than the model's "
                f"({tokenizer.kind}); prepare the text again with the model's own tokenizer"
            )
        verify_checksums(folder, ["manifest.json", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"])
        prompts = folder / f"{split}-prompts.bin" if counts.prompts_sha256 else None
        for file, digest in ((path, counts.sha256), (prompts, counts.prompts_sha256)):
            if file and (not file.exists() or sha256(file) != digest):
                raise UserError(f"{file}: damaged, its SHA-256 is not what manifest.json says; {REMEDY}")
        tokens = np.memmap(path, dtype, "r")
        lengths = None if prompts is None else np.fromfile(prompts, "<u4")
        return cls(manifest["source"], split, tokens, tokenizer.eot, counts, manifest["licence"], lengths)

    def __len__(self) -> int:
        return len(self.tokens)

    def documents(self) -> Iterator[np.ndarray]:
        """Each document's token ids with the end token before and after it.

        So its inputs are `ids[:-1]` and its targets `ids[1:]`.
        """
        for start, end in itertools.pairwise(self.ends().tolist()):
            yield self.tokens[start : end + 1]

    def used(self) -> np.ndarray:
        """The ids that occur, each once, in their order."""
        seen = np.zeros(self.eot + 1, bool)
        for i in range(0, len(self), CHUNK):
            seen[self.tokens[i : i + CHUNK]] = True
        return np.flatnonzero(seen)

    @cached_property
    def learned(self) -> np.ndarray | None:
        """(len,) bool: whether a token is learned, which those of prompts are not; None where all are."""
        if self.prompts is None:
            return None
        first = self.ends()[:-1] + 1
        steps = np.zeros(len(self) + 1, np.int8)  # no two documents start, and no two answers, at one place
        np.add.at(steps, first, -1)
        np.add.at(steps, first + self.prompts, 1)
        return np.cumsum(steps[:-1], dtype=np.int8) == 0

    def ends(self) -> np.ndarray:
        """(documents + 1,) int64 positions of the end tokens: one before the first document, one behind each."""
        chunks = range(0, len(self), CHUNK)
        return np.concatenate([np.flatnonzero(self.tokens[i : i + CHUNK] == self.eot) + i for i in chunks])


def tokenizer_of_bins(folder: os.PathLike | str) -> Tokenizer:
    """Load the tokenizer that encoded a folder of bins: its own, or a neighbouring folder's with the SHA-256 it names.

    Raises UserError where there is none.
    """
    folder = Path(folder)
    if (folder / "tokenizer").exists():
        return load_tokenizer(folder / "tokenizer")
    manifest, _, _ = _read_manifest(folder, "train")
    for path in sorted(folder.resolve().parent.glob("*/tokenizer")):
        with contextlib.suppress(UserError):  # a damaged one, or one of a kind that we do not read
            tokenizer = load_tokenizer(path)
            if tokenizer.sha256 == manifest["tokenizer_sha256"]:
                return tokenizer
    raise UserError(
        f"{folder}: the {manifest['tokenizer']} tokenizer of its tokens is neither in it nor in a folder beside it; "
        f"copy that folder to {folder / 'tokenizer'}, or prepare the text again with "
        "`python -m stages.prepare --tokenizer FOLDER`"
    )


def _read_manifest(folder: Path, split: str) -> tuple[dict, Counts, np.dtype]:
    try:
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        counts = Counts(**manifest["splits"][split])
        texts = [manifest[key] for key in ("source", "licence", "tokenizer", "tokenizer_sha256")]
        if not isinstance(counts.tokens, int) or not all(isinstance(text, str) for text in texts):
            raise TypeError("a value is of another type")
        return manifest, counts, np.dtype(DTYPES[manifest["dtype"]])
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} does not exist; {REMEDY}") from None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{folder / 'manifest.json'}: damaged ({type(error).__name__}: {error}); {REMEDY}") from None
