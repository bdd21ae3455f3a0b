"""The built-in corpora: exact probabilities, one derivation each, clean texts."""

import hashlib
import re
import string
from collections import Counter
from random import Random

import pytest
from grammar_scorer import Scorer

from nanogpt.data.sources import abstracts, stories
from nanogpt.data.sources.document import Corpus, DataSettings, Document
from nanogpt.data.sources.grammar import GeneratorSettings, Grammar, generated_corpus

SOURCES = {"stories": stories, "abstracts": abstracts}

# Every construct once, small enough to list all it can say.
TINY = Grammar(
    {
        "TEXT": [*["{^pet=PET.a} and {WHO}."] * 2, "{WHO} {SOUND@who}."],
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
    settings = DataSettings(
        source=name, num_samples=count, val_fraction=0.1, path="", pattern="", field="", format="text"
    )
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
