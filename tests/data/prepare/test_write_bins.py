import hashlib
import json
import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt.data.prepare import write_bins
from nanogpt.data.prepare.train_tokenizer import train_tokenizer
from nanogpt.data.prepare.write_bins import write_corpus
from nanogpt.data.sources.document import Corpus, Document
from nanogpt.data.tokens import bins
from nanogpt.data.tokens.bins import Bin, Counts
from nanogpt.data.tokens.settings import TokenizerSettings
from nanogpt.runtime.errors import UserError

BYTE = train_tokenizer(TokenizerSettings("byte", 0, "error"), [])


def corpus(documents: list[Document], **about) -> Corpus:
    return Corpus("test", "CC0", lambda skipped: iter(documents), **about)


def texts(n: int) -> list[Document]:
    return [Document(f"text {i} é") for i in range(n)]


def read(folder, split: str) -> list[str]:
    return [BYTE.decode(ids) for ids in Bin.open(folder, split, BYTE).documents()]


def test_the_stream_is_flat_uint16_with_end_tokens_around_each_document(tmp_path):
    write_corpus(tmp_path, corpus([Document("ab"), Document("c"), Document("é")]), BYTE, 0.5)
    assert np.fromfile(tmp_path / "val.bin", "<u2").tolist() == [256, 97, 98, 256, 0xC3, 0xA9, 256]
    assert np.fromfile(tmp_path / "train.bin", "<u2").tolist() == [256, 99, 256]
    assert [ids.tolist() for ids in Bin.open(tmp_path, "val", BYTE).documents()] == [
        [256, 97, 98, 256],
        [256, 0xC3, 0xA9, 256],
    ]


@pytest.mark.parametrize(("fraction", "every"), [(0.5, 2), (0.4, 2), (0.1, 10), (0.01, 100)])
def test_every_kth_document_goes_to_validation(tmp_path, fraction, every):
    documents = [document.text for document in texts(205)]
    write_corpus(tmp_path, corpus(texts(205)), BYTE, fraction)
    assert read(tmp_path, "val") == documents[::every]
    assert read(tmp_path, "train") == [text for i, text in enumerate(documents) if i % every]


def test_the_sources_own_split_wins_and_batches_keep_the_order(tmp_path, monkeypatch):
    monkeypatch.setattr(write_bins, "BATCH_DOCUMENTS", 3)
    monkeypatch.setattr(bins, "CHUNK", 5)
    documents = [Document(str(i), split="val" if i in (3, 4) else "train") for i in range(10)]
    write_corpus(tmp_path, corpus(documents), BYTE, 0.1)
    assert read(tmp_path, "val") == ["3", "4"]
    assert read(tmp_path, "train") == list("01256789")


def test_the_manifest_counts(tmp_path):
    def documents(skipped):
        yield Document("é", bits=0.1)
        skipped["not text"] += 2
        yield from [Document("ab", bits=0.1)] * 10

    source = Corpus("test", "CC0", documents, exact=True, revision="1a2b")
    returned = write_corpus(tmp_path, source, BYTE, 0.01)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest == returned
    sha256 = {split: hashlib.sha256((tmp_path / f"{split}.bin").read_bytes()).hexdigest() for split in ("train", "val")}
    train = {"documents": 10, "tokens": 31, "bytes": 20, "bytes_per_token": 20 / 31, "bits": math.fsum([0.1] * 10)}
    val = {"documents": 1, "tokens": 4, "bytes": 2, "bytes_per_token": 0.5, "bits": 0.1}
    assert manifest == {
        "source": "test",
        "revision": "1a2b",
        "licence": "CC0",
        "tokenizer": "byte",
        "tokenizer_sha256": BYTE.sha256,
        "vocab_size": 320,
        "dtype": "uint16",
        "documents_read": 11,
        "skipped": {"not text": 2},
        "duplicates_removed": 0,
        "overlap": 0,
        "splits": {
            "train": train | {"replaced": 0, "sha256": sha256["train"], "prompts_sha256": ""},
            "val": val | {"replaced": 0, "sha256": sha256["val"], "prompts_sha256": ""},
        },
    }
    assert Bin.open(tmp_path, "val", BYTE).counts == Counts(1, 4, 2, 0.1, 0, 0.5, sha256["val"])


@settings(deadline=None, max_examples=60)
@given(
    kinds=st.lists(st.tuples(st.integers(0, 12), st.sampled_from([None, "train", "val"])), min_size=2, max_size=60),
    batch=st.integers(1, 7),
)
def test_each_text_is_kept_once_where_it_came_first(kinds, batch):
    documents = [Document("x" * kind, split=split) for kind, split in kinds]
    places = [split or ("train" if i % 4 else "val") for i, (_, split) in enumerate(kinds)]
    first: dict[str, str] = {}
    for document, place in zip(documents, places, strict=True):
        first.setdefault(document.text, place)
    wanted = {split: [text for text, place in first.items() if place == split] for split in ("train", "val")}
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(write_bins, "BATCH_DOCUMENTS", batch)
        if not all(wanted.values()):
            with pytest.raises(UserError, match=rf"and {len(documents) - len(first)} repeated"):
                write_corpus(Path(folder), corpus(documents), BYTE, 0.25)
            return
        manifest = write_corpus(Path(folder), corpus(documents), BYTE, 0.25)
        for split in ("train", "val"):
            assert read(Path(folder), split) == wanted[split]
            assert manifest["splits"][split]["bytes"] == sum(map(len, wanted[split]))
    assert manifest["duplicates_removed"] == len(documents) - len(first)
    assert manifest["overlap"] == 0
    assert not {*wanted["train"]} & {*wanted["val"]}


def test_a_corpus_of_known_distribution_keeps_its_repeated_texts_and_counts_the_overlap(tmp_path):
    documents = [
        Document(text, split=split) for text, split in [("a", "train"), ("a", "val"), ("a", "val"), ("b", "val")]
    ]
    manifest = write_corpus(tmp_path, corpus(documents, exact=True), BYTE, 0.5)
    assert (read(tmp_path, "train"), read(tmp_path, "val")) == (["a"], ["a", "a", "b"])
    assert (manifest["duplicates_removed"], manifest["overlap"]) == (0, 2)


def test_unknown_bits_and_replaced_characters(tmp_path):
    char = train_tokenizer(TokenizerSettings("char", 0, "replace"), ["abc"])
    documents = [Document("a"), Document("xyz", bits=1.0), Document("ax"), Document("ab")]
    splits = write_corpus(tmp_path, corpus(documents), char, 0.5)["splits"]
    assert (splits["train"]["bits"], splits["val"]["bits"]) == (None, None)
    assert (splits["train"]["replaced"], splits["val"]["replaced"]) == (3, 1)


def test_a_large_vocabulary_needs_uint32(tmp_path):
    characters = [chr(code) for code in [*range(0xD800), *range(0xE000, 0x13000)]]
    char = train_tokenizer(TokenizerSettings("char", 0, "error"), characters)
    assert char.vocab_size > 2**16
    assert write_corpus(tmp_path, corpus([Document("\U00012fff"), Document("b")]), char, 0.5)["dtype"] == "uint32"
    assert Bin.open(tmp_path, "val", char).tokens.dtype == np.uint32
    assert char.decode(next(Bin.open(tmp_path, "val", char).documents())) == "\U00012fff"


@pytest.mark.parametrize(
    ("documents", "said"),
    [
        ([], r"0 document\(s\) and 0 repeated"),
        (texts(1), r"1 document\(s\) and 0 repeated, 0 of them for training"),
        ([Document("a", split="train")] * 3, r"1 document\(s\) and 2 repeated, 1 of them for training and 0 for"),
    ],
)
def test_an_empty_side_is_an_error(tmp_path, documents, said):
    with pytest.raises(UserError, match=rf"test: {said}.*data\.<role>\.num_samples"):
        write_corpus(tmp_path, corpus(documents), BYTE, 0.1)
