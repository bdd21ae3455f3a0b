"""Reads bins, a corpus as two flat files of token ids, as documents or as batches.

A stream is eot, document, eot, document, eot …, little-endian uint16, or uint32 where the vocabulary
needs it. `manifest.json` beside the bins says what they hold. Which windows a batch holds is a pure
function of (seed, step): nothing to save for a resume, and the order does not depend on the batch size.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nanogpt.runtime.checksums import sha256, verify_checksums
from nanogpt.runtime.errors import UserError
from nanogpt.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

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


class Windows:
    """Batches of a bin in an order that depends on the seed and the sample's number alone.

    An epoch cuts the stream into `per_epoch` windows of `block_size` tokens that do not overlap, from
    an offset of its own, and takes each once. Sample i is window i % per_epoch, in the order of epoch
    i // per_epoch. Raises UserError where the bin is too short for one window and its last target.
    """

    def __init__(self, bin: Bin, block_size: int, seed: int):
        if len(bin) <= block_size:
            share = "a greater data.<role>.val_fraction, " if bin.split == "val" else ""
            raise UserError(
                f"{bin.split}.bin of {bin.source} has {len(bin)} tokens, and a window of model.block_size = "
                f"{block_size} needs {block_size + 1}; choose a smaller model.block_size, {share}or give more text"
            )
        self.bin, self.block_size, self.seed = bin, block_size, seed
        # one window less than would fit leaves room to shift the cuts, so that in time every token is seen
        self.per_epoch = max(1, len(bin) // block_size - 1)
        self._epoch, self._starts = -1, np.empty(0, np.int64)

    def starts(self, samples: np.ndarray) -> np.ndarray:
        """(n,) int64 sample numbers to the (n,) int64 positions where their windows start."""
        epochs, places = np.divmod(samples, self.per_epoch)
        return np.array([self._order(e)[p] for e, p in zip(epochs.tolist(), places.tolist(), strict=True)], np.int64)

    def batch(self, step: int, batch_size: int) -> tuple["torch.Tensor", "torch.Tensor"]:
        """Inputs and targets of a step, each (batch_size, block_size) int64."""
        import torch  # here, so that the stage that writes bins starts without it

        starts = self.starts(step * batch_size + np.arange(batch_size))
        rows = np.stack([self.bin.tokens[start : start + self.block_size + 1] for start in starts])  # (B, T + 1)
        rows = torch.from_numpy(rows.astype(np.int64))
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()

    def _order(self, epoch: int) -> np.ndarray:
        """(per_epoch,) int64 window starts of an epoch; the last epoch asked for is kept."""
        if epoch != self._epoch:
            T, n = self.block_size, self.per_epoch
            random = np.random.default_rng([self.seed, epoch])
            offset = random.integers(len(self.bin) - n * T)  # the last target is at most the last token
            self._epoch, self._starts = epoch, random.permutation(n) * T + offset
        return self._starts
