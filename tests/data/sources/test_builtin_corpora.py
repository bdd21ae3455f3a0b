"""The built-in corpora: exact probabilities, one derivation each, texts that fit, something to learn."""

import hashlib
import re
import string
from collections import Counter
from random import Random

import pytest
from grammar_scorer import Scorer
from ngram import Ngram
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from nanogpt.data.sources import abstracts, stories
from nanogpt.data.sources.document import Corpus, DataSettings, Document
from nanogpt.data.sources.grammar import GeneratorSettings, Grammar, generated_corpus

SOURCES = {"stories": stories, "abstracts": abstracts}
BLOCK = 256

# Every construct once, small enough to list all it can say.
TINY = Grammar(
    {
        "TEXT": [(2, "{^pet=PET.a} and {WHO}."), "{WHO} {SOUND@who}."],
        "WHO": ["{who=CHILD}", "not {who=CHILD.his} {who}"],
    },
    {
        "PET it a": "owl | an ~; cat | a ~",
        "CHILD it his kind": "Ann | her | loud; Bob | his | soft; Cy | his | soft",
        "SOUND@loud": "shouts; sings",
        "SOUND@soft": "hums",
    },
)


def load(name: str, count: int, seed: int) -> Corpus:
    settings = DataSettings(source=name, num_samples=count, val_fraction=0.1, path="", pattern="", field="")
    return generated_corpus(name, SOURCES[name].GRAMMAR, settings, GeneratorSettings(seed))


def draw(name: str, count: int, seed: int = 0) -> list[Document]:
    return list(load(name, count, seed).documents(Counter()))


@pytest.fixture(params=SOURCES)
def name(request) -> str:
    return request.param


@pytest.fixture
def scorer(name) -> Scorer:
    grammar = SOURCES[name].GRAMMAR
    return Scorer(grammar.rules, grammar.tables)


# The engine and the scorer


def test_a_tiny_grammar_says_each_text_as_often_as_its_bits_tell():
    rng = Random(1)
    drawn = [TINY.draw(rng) for _ in range(20_000)]
    bits = dict(drawn)
    assert sum(2**-b for b in bits.values()) == pytest.approx(1)
    texts = [text for text, _ in drawn]
    assert texts.count("An owl and Ann.") == pytest.approx(20_000 * 2 / 3 / 2 / 2 / 3, rel=0.1)
    assert "not his Bob hums." in bits and "not her Ann sings." in bits


def test_scorer_agrees_on_every_text_of_the_tiny_grammar():
    scorer, rng = Scorer(TINY.rules, TINY.tables), Random(2)
    for text, bits in {TINY.draw(rng) for _ in range(2_000)}:
        assert scorer.derivations(text) == pytest.approx([bits])


# Probability


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_each_document_has_one_derivation_and_its_bits(name, scorer, count):
    for document in draw(name, count, seed=11):
        assert scorer.derivations(document.text) == pytest.approx([document.bits], abs=1e-6), document.text


def test_no_document_can_have_fewer_than_60_bits(name, scorer):
    assert scorer.least_bits() >= 60
    assert min(document.bits for document in draw(name, 2_000)) >= scorer.least_bits() - 1e-9


def test_every_symbol_is_defined_once_and_used_and_every_name_recalled(scorer):
    assert not scorer.rules.keys() & scorer.tables.keys()
    slots = [p for alternatives in scorer.rules.values() for _, parts in alternatives for p in parts if p[0] == "slot"]
    drawn = [slot for slot in slots if slot[3]]
    assert {"TEXT"}.union(*map(scorer.symbols, drawn)) == scorer.rules.keys() | scorer.tables.keys()
    recalled = {slot[2] for slot in slots if not slot[3]} | {slot[4] for slot in slots if slot[4]}
    assert {slot[2] for slot in drawn if slot[2]} == recalled


@pytest.mark.slow
def test_no_document_comes_twice(name):
    # n documents hold n(n-1)/2 pairs, and a pair agrees with the chance E[2**-bits], at most 2**-(least bits).
    # Even 300,000 documents, over 100 MB, hold a repeat with a chance far below one in a million.
    documents = draw(name, 50_000)
    assert len({document.text for document in documents}) == len(documents)
    agree = sum(2**-document.bits for document in documents) / len(documents)
    assert 300_000**2 / 2 * agree < 1e-6


# The same seed, the same documents


def test_a_seed_decides_every_document_and_more_samples_only_add(name):
    assert draw(name, 50) == draw(name, 80)[:50]
    assert draw(name, 50, seed=1) != draw(name, 50, seed=2)


# To be renewed where a grammar is changed on purpose, and only there.
DIGESTS = {"stories": "1fc469b1597cd1d4", "abstracts": "057fff7e7894bcc3"}


def test_documents_are_the_same_on_every_machine_and_python(name):
    texts = "\0".join(document.text for document in draw(name, 1_000))
    assert hashlib.sha256(texts.encode()).hexdigest()[:16] == DIGESTS[name]


# The texts


def test_texts_are_clean(name):
    for document in draw(name, 2_000):
        assert document.text == document.text.strip()
        assert set(document.text) <= set(string.ascii_letters + string.digits + " .,;:!?'\"%\n")
        assert not re.search(r"  | [.,;:!?]|\n\n\n|\ba [aeiou]|\ban [^aeiouh]", document.text), document.text
        assert document.split is None


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """What the default settings train: byte-level BPE of 2,048 tokens on stories."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=2048,
        special_tokens=["<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((document.text for document in draw("stories", 20_000, seed=5)), trainer)
    return tokenizer


@pytest.mark.slow
def test_the_longest_text_and_its_end_fit_the_default_block(name, scorer, tokenizer):
    def tokens(piece: str) -> int:
        runs = re.findall(r" ?[A-Za-z]+| ?[0-9]+|\s?[^\w\s]|\s", piece)
        assert "".join(runs) == piece
        return sum(len(tokenizer.encode(run).ids) for run in runs)

    bound = scorer.most(tokens)
    longest = max(len(encoding.ids) for encoding in tokenizer.encode_batch([d.text for d in draw(name, 20_000)]))
    print(f"{name}: at most {bound} tokens, longest of 20,000 documents {longest}")
    assert longest <= bound <= BLOCK - 1


# Something to learn


@pytest.mark.slow
def test_four_words_of_context_are_not_enough(name):
    texts = [document.text for document in draw(name, 20_000, seed=21)]
    held_out = draw(name, 500, seed=22)
    model = Ngram(texts)
    ratio = sum(model.bits(document.text) for document in held_out) / sum(document.bits for document in held_out)
    print(f"{name}: 5-gram model at {ratio:.3f} of the entropy")
    assert ratio >= 1.20
