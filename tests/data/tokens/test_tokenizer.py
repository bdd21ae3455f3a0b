import itertools
import json
import os
from functools import cache
from pathlib import Path

import needs
import numpy as np
import pytest
import tiktoken
import tokenizers
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from shared import SHARED

from nanogpt.data.prepare.train_tokenizer import train_tokenizer
from nanogpt.data.tokens.settings import TokenizerSettings
from nanogpt.data.tokens.tokenizer import EOT, Tokenizer, load_tokenizer
from nanogpt.runtime.errors import BadSetting, UserError

KINDS = ["byte", "char", "bpe"]
WORDS = [
    "the",
    "theme",
    "then",
    "banana",
    "bandana",
    "aaaa",
    "aaaaaaa",
    "don't",
    "1234",
    "  ",
    "\n\n",
    "naïve",
    "日本語",
]
TEXTS = [" ".join(pair) for pair in itertools.product(WORDS, repeat=2)]


def made(kind: str, unknown: str = "replace", vocab_size: int = 300) -> Tokenizer:
    return train_tokenizer(TokenizerSettings(kind, vocab_size, unknown), TEXTS)


def encoded(ours: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [ours.encode(text) for text in texts]


@cache
def gpt2() -> Tokenizer:
    if "TIKTOKEN_CACHE_DIR" not in os.environ:
        pytest.skip("GPT-2's vocabulary is not here: set NANOGPT_SHARED or TIKTOKEN_CACHE_DIR")
    return made("gpt2")


@pytest.fixture(autouse=True)
def shared_cache(monkeypatch):
    if "TIKTOKEN_CACHE_DIR" not in os.environ and (SHARED / "tiktoken-cache").is_dir():
        monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(SHARED / "tiktoken-cache"))


def hugging_face(ours: Tokenizer, folder: Path):
    """What transformers makes of the saved folder."""
    import transformers  # takes a second

    ours.save(folder)
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("kind", [*KINDS, "gpt2"])
@settings(deadline=None)
@given(text=st.text() | st.lists(st.sampled_from(WORDS)).map("".join))
def test_every_text_comes_back(kind, text):
    ours = gpt2() if kind == "gpt2" else cached(kind)
    if kind == "char":
        text = "".join(character for character in text if character in "".join(TEXTS))
    text = text.encode(errors="replace").decode()
    assert ours.decode(ours.encode(text)) == text


@settings(deadline=None)
@given(raw=st.binary())
def test_any_bytes_come_back(raw):
    ours = cached("bpe")
    assert ours.decode([ours.pieces.index(bytes([byte])) for byte in raw]) == raw.decode(errors="replace")


@cache
def cached(kind: str) -> Tokenizer:
    return made(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_sizes(kind):
    ours = made(kind)
    assert ours.kind == kind
    assert ours.eot == ours.n_tokens - 1
    assert ours.vocab_size % 64 == 0
    assert 0 <= ours.vocab_size - ours.n_tokens < 64
    assert ours.n_tokens == {"byte": 257, "bpe": 300, "char": len(set("".join(TEXTS))) + 2}[kind]
    lengths = ours.byte_lengths()
    assert (lengths.shape, lengths.dtype) == ((ours.vocab_size,), np.int64)
    assert not lengths[ours.eot :].any()
    assert sum(lengths[ours.encode(TEXTS[-1])]) == len(TEXTS[-1].encode())
    assert ours.decode([ours.eot, *ours.encode("the"), ours.eot, ours.vocab_size - 1]) == "the"
    for text in ("the", "", "banana"):
        array = ours.encode_array(text)
        assert (array.dtype, array.ndim, array.tolist()) == (np.uint32, 1, ours.encode(text))


def test_the_end_tokens_name_is_ordinary_text():
    ours = made("bpe")
    ids = ours.encode(f"a{EOT}b")
    assert ours.eot not in ids
    assert ours.decode(ids) == f"a{EOT}b"


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded(kind, tmp_path):
    ours = made(kind)
    ours.save(tmp_path)
    again = load_tokenizer(tmp_path)
    again.save(tmp_path / "again")
    assert (again.kind, again.n_tokens, again.pieces) == (ours.kind, ours.n_tokens, ours.pieces)
    assert encoded(again, TEXTS) == encoded(ours, TEXTS)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_hugging_face_gives_the_same_ids(kind, tmp_path):
    ours = made(kind)
    theirs = hugging_face(ours, tmp_path)
    assert (len(theirs), theirs.eos_token_id, theirs.bos_token_id) == (ours.n_tokens, ours.eot, ours.eot)

    @settings(deadline=None)
    @given(text=st.text(st.characters(codec="utf-8")) | st.lists(st.sampled_from([*WORDS, "aa", "é "])).map("".join))
    def same(text):
        assume(EOT not in text)  # which transformers takes for the end token
        assert theirs(text)["input_ids"] == ours.encode(text)
        assert theirs.decode(ours.encode(text)) == ours.decode(ours.encode(text))

    same()


@needs.real_text
@pytest.mark.parametrize("file", ["tinystories.jsonl", "tinyshakespeare.txt"])
def test_hugging_face_agrees_on_real_text(file, tmp_path):
    texts = (SHARED / "corpora" / file).read_text("utf-8")[:150_000].splitlines(keepends=True)
    ours = train_tokenizer(TokenizerSettings("bpe", 2048, "error"), texts)
    theirs = hugging_face(ours, tmp_path)
    assert ours.n_tokens == 2048
    assert encoded(ours, texts) == theirs(texts)["input_ids"]
    assert sum(map(len, encoded(ours, texts))) < 0.45 * sum(map(len, texts))


def test_bpe_merges_what_is_frequent_and_stops_where_nothing_repeats():
    ours = train_tokenizer(TokenizerSettings("bpe", 1000, "error"), ["abab abab", "xy"])
    assert set(ours.pieces[256 : ours.eot]) == {b"ab", b"abab"}
    assert ours.encode("abab") == [ours.pieces.index(b"abab")]
    assert len(ours.encode("xy")) == 2


@pytest.mark.parametrize("text", [" " * 1_200_000 + "b", "a\n" + "\n " * 600_000 + "b"])
def test_white_space_on_which_tiktoken_panics(text):
    ours = made("byte")
    assert ours.decode(ours.encode(text)) == text


def test_gpt2_is_tiktokens(tmp_path):
    ours, theirs = gpt2(), tiktoken.get_encoding("gpt2")
    assert (ours.n_tokens, ours.vocab_size, ours.eot) == (50257, 50304, 50256)
    assert encoded(ours, TEXTS) == theirs.encode_ordinary_batch(TEXTS)
    ours.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.kind == "gpt2"

    @settings(deadline=None)
    @given(st.text())
    def same(text):
        assert again.encode(text) == ours.encode(text) == theirs.encode_ordinary(text)

    same()


def test_gpt2_without_its_files_or_a_network(tmp_path, monkeypatch):
    def offline(*_):
        raise ConnectionError("no network")

    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("tiktoken.load.read_file", offline)
    with pytest.raises(UserError, match=r"TIKTOKEN_CACHE_DIR .* tokenizer\.kind: bpe"):
        made("gpt2")


def test_a_tokenizer_that_transformers_saved_loads(tmp_path):
    ours = made("bpe")
    hugging_face(ours, tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    path = tmp_path / "theirs" / "tokenizer.json"
    document = json.loads(path.read_text("utf-8"))
    del document["pre_tokenizer"]["use_regex"]  # as in files of older versions
    path.write_text(json.dumps(document))
    assert load_tokenizer(tmp_path / "theirs").pieces == ours.pieces


def test_unknown_characters_are_an_error():
    ours = made("char", unknown="error")
    assert ours.n_tokens == len(set("".join(TEXTS))) + 1
    with pytest.raises(UserError) as caught:
        ours.encode("the Ω€€" + "ABCDEFGHIJ")
    message = str(caught.value)
    assert "12 character(s)" in message and "'Ω' U+03A9, '€' U+20AC, 'A' U+0041" in message
    assert "'H'" in message and "'I'" not in message
    assert "tokenizer.unknown: replace" in message
    with pytest.raises(UserError, match=r"U\+DCE9"):
        ours.encode("the \udce9")


def test_unknown_characters_are_replaced_and_counted(tmp_path):
    ours = made("char", unknown="replace")
    ours.save(tmp_path)
    for each in (ours, load_tokenizer(tmp_path)):
        assert each.decode(each.encode("the Ω€€ \udce9")) == "the \ufffd\ufffd\ufffd \ufffd"
        assert each.unknown("the Ω€€ \udce9") == 4
    assert made("bpe").unknown("Ω") == 0


def test_a_vocabulary_too_small_for_bytes_or_too_large():
    for size in (256, 2**20 + 1):
        with pytest.raises(BadSetting, match=f"vocab_size = {size}: bpe needs 257 to 1048576"):
            TokenizerSettings("bpe", size, "error")
    assert TokenizerSettings("char", 0, "error").vocab_size == 0
    assert made("bpe", vocab_size=257).encode("a") == [made("bpe", vocab_size=257).pieces.index(b"a")]


def test_a_foreign_tokenizer_must_merge_in_the_order_of_its_ids(tmp_path):
    foreign = tokenizers.Tokenizer(tokenizers.models.BPE())
    foreign.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    foreign.train_from_iterator(TEXTS, tokenizers.trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet))
    document = json.loads(foreign.to_str())
    document["model"]["vocab"][EOT] = len(document["model"]["vocab"])
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(document))
    ours = load_tokenizer(tmp_path)
    assert encoded(ours, TEXTS) == [encoding.ids for encoding in foreign.encode_batch(TEXTS)]
    merges = document["model"]["merges"]
    for changed in (merges[::-1], merges[:-1]):
        document["model"]["merges"] = changed
        theirs = tokenizers.Tokenizer.from_str(json.dumps(document))
        assert encoded(ours, TEXTS) != [encoding.ids for encoding in theirs.encode_batch(TEXTS)]
        path.write_text(json.dumps(document))
        with pytest.raises(UserError, match="its merges are not in the order of its ids"):
            load_tokenizer(tmp_path)


def change(document: dict, path: str, value: object) -> str:
    *outer, last = path.split(".")
    inner = document
    for key in outer:
        inner = inner[key]
    inner[last] = value
    return json.dumps(document)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda document: json.dumps(document)[:-1], "JSONDecodeError"),
        (lambda document: "[]", "TypeError"),
        (lambda document: "{}", "KeyError: 'model'"),
        (lambda document: change(document, "normalizer", {"type": "Lowercase"}), "cuts text in another way"),
        (lambda document: change(document, "pre_tokenizer.use_regex", False), "cuts text in another way"),
        (lambda document: change(document, "model.vocab.a", 9999), "ids are not 0, 1, 2"),
        (lambda document: change(document, "model.end_of_word_suffix", "</w>"), "marks parts of words"),
        (lambda document: change(document, "model.vocab", {"a": 0, EOT: 1}), "lacks some of the 256 bytes"),
        (lambda document: change(document, "model.vocab", {"日": 0, EOT: 1}), "KeyError"),
    ],
)
def test_a_damaged_folder(tmp_path, damage, reason):
    made("bpe").save(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_text(damage(json.loads(path.read_text("utf-8"))))
    with pytest.raises(UserError, match=r"tokenizer\.json: damaged, or not of a kind") as caught:
        load_tokenizer(tmp_path)
    assert reason in str(caught.value)
