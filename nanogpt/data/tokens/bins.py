"""Bins, opened for reading: a corpus as two flat files of token ids.

A stream is eot, document, eot, document, eot …, little-endian uint16, or uint32 where the vocabulary needs it.
`manifest.json` beside the bins says what they hold.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nanogpt.data.tokens.tokenizer import Tokenizer
from nanogpt.runtime.checksums import sha256, verify_checksums
from nanogpt.runtime.errors import UserError

if TYPE_CHECKING:
    pass


SPLITS = ("train", "val")
CHUNK = 1 << 22  # tokens searched at a time for the ends of documents
DTYPES = {"uint16": "<u2", "uint32": "<u4"}


@dataclass
class Counts:
    """What a bin holds: `tokens` with the end tokens, `bytes` of UTF-8 without them.

    `bits` is the sum of `Document.bits`, None where one is unknown; `replaced` are characters that
    the tokenizer does not know; `sha256` is that of the file.
    """

    documents: int = 0
    tokens: int = 0
    bytes: int = 0
    bits: float | None = 0.0
    replaced: int = 0
    bytes_per_token: float = 0.0
    sha256: str = ""


@dataclass(frozen=True)
class Bin:
    """One bin, open for reading.

    `tokens` is (len,) uint16 or uint32, mapped from the file and read-only; `eot` is the end token;
    `source`, `counts` and `licence` are what the manifest says of it.
    """

    source: str
    split: str
    tokens: np.ndarray
    eot: int
    counts: Counts
    licence: str = ""

    @classmethod
    def open(cls, folder: os.PathLike | str, split: str, tokenizer: Tokenizer) -> "Bin":
        """Map `<split>.bin` of a folder that `bins.write` made.

        Raises UserError where it is missing, damaged, or written with another tokenizer.
        """
        folder = Path(folder)
        again = "write it again with `dvc repro --force prepare`, or take it back with `dvc checkout`"
        try:
            manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
            dtype = np.dtype(DTYPES[manifest["dtype"]])
            counts, digest = Counts(**manifest["splits"][split]), manifest["tokenizer_sha256"]
            source, licence = manifest["source"], manifest["licence"]
            size, wanted = (folder / f"{split}.bin").stat().st_size, counts.tokens * dtype.itemsize
        except FileNotFoundError as error:
            raise UserError(f"{error.filename} does not exist; {again}") from None
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise UserError(f"{folder / 'manifest.json'}: damaged ({type(error).__name__}: {error}); {again}") from None
        if size != wanted:
            raise UserError(
                f"{folder / split}.bin: damaged, it has {size} bytes where manifest.json says {wanted}; {again}"
            )
        if digest != tokenizer.sha256:
            raise UserError(
                f"{folder}: its tokens are of another tokenizer ({manifest['tokenizer']}) than the model's "
                f"({tokenizer.kind}); prepare the text again with the model's own tokenizer"
            )
        verify_checksums(folder, ["manifest.json", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"])
        if sha256(folder / f"{split}.bin") != counts.sha256:
            raise UserError(f"{folder / split}.bin: damaged, its SHA-256 is not what manifest.json says; {again}")
        tokens = np.memmap(folder / f"{split}.bin", dtype, "r")
        return cls(source, split, tokens, tokenizer.eot, counts, licence)

    def __len__(self) -> int:
        return len(self.tokens)

    def documents(self) -> Iterator[np.ndarray]:
        """Each document's token ids with the end token before and after it.

        So its inputs are `ids[:-1]` and its targets `ids[1:]`.
        """
        start = 0
        for begin in range(1, len(self), CHUNK):
            for end in np.flatnonzero(self.tokens[begin : begin + CHUNK] == self.eot) + begin:
                yield self.tokens[start : end + 1]
                start = end
