"""Writes bins: a corpus as two flat files of token ids and a manifest, in bounded memory.

The stream is eot, document, eot, document, eot ..., as `tokens` reads it.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np

from nanogpt.corpus.document import Corpus, Document
from nanogpt.errors import UserError
from nanogpt.tokenizer import Tokenizer
from nanogpt.tokens import DTYPES, SPLITS, Counts

BATCH_DOCUMENTS, BATCH_CHARACTERS = 1000, 4_000_000


def write(folder: Path, corpus: Corpus, tokenizer: Tokenizer, val_fraction: float) -> dict:
    """Encode a corpus into `train.bin`, `val.bin` and `manifest.json`; return what the manifest says.

    `folder` exists, empty. Where a document does not bring its split, every k-th from the first goes
    to validation, k = max(2, round(1 / val_fraction)).
    Raises UserError where either side would be empty.
    """
    dtype = "uint16" if tokenizer.vocab_size <= 2**16 else "uint32"
    every = max(2, round(1 / val_fraction))
    skipped: Counter[str] = Counter()
    counts = {split: Counts() for split in SPLITS}
    for split in SPLITS:
        (folder / f"{split}.bin").write_bytes(np.array([tokenizer.eot], DTYPES[dtype]).tobytes())
        counts[split].tokens = 1
    with (folder / "train.bin").open("ab") as train, (folder / "val.bin").open("ab") as val:
        files = {"train": train, "val": val}
        numbered = enumerate(corpus.documents(skipped))
        placed = ((document.split or ("train" if i % every else "val"), document) for i, document in numbered)
        for batch in _batches(placed):
            for split in SPLITS:
                documents = [document for place, document in batch if place == split]
                _append(files[split], DTYPES[dtype], documents, tokenizer, counts[split])
    train, val = counts["train"].documents, counts["val"].documents
    if not train or not val:
        raise UserError(
            f"{corpus.name}: {train + val} document(s), {train} of them for training and {val} for validation, "
            "and each needs one at least; give more documents (data.<role>.num_samples, or more text; a .txt "
            "file needs blank lines or <|endoftext|> lines between documents)"
        )
    manifest = {
        "source": corpus.name,
        "licence": corpus.licence,
        "tokenizer": tokenizer.kind,
        "tokenizer_sha256": tokenizer.sha256,
        "vocab_size": tokenizer.vocab_size,
        "dtype": dtype,
        "splits": {split: asdict(counts[split]) for split in SPLITS},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return manifest


def _batches(placed: Iterable[tuple[str, Document]]) -> Iterator[list[tuple[str, Document]]]:
    batch, characters = [], 0
    for place, document in placed:
        batch.append((place, document))
        characters += len(document.text)
        if len(batch) == BATCH_DOCUMENTS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    yield batch


def _append(file: BinaryIO, dtype: str, documents: list[Document], tokenizer: Tokenizer, counts: Counts) -> None:
    replaced = tokenizer.replaced
    encoded = tokenizer.encode_batch([document.text for document in documents])
    ids = np.fromiter(chain.from_iterable((*one, tokenizer.eot) for one in encoded), dtype)
    file.write(ids.tobytes())
    counts.documents += len(documents)
    counts.tokens += len(ids)
    counts.bytes += sum(len(document.text.encode()) for document in documents)
    counts.replaced += tokenizer.replaced - replaced
    bits = [counts.bits, *(document.bits for document in documents)]
    counts.bits = None if None in bits else math.fsum(bits)
