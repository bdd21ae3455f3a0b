import string
from collections import defaultdict
from math import log2
from random import Random

import numpy as np
import pytest

from nanogpt.data.prepare.train_tokenizer import train_tokenizer
from nanogpt.data.sources import abstracts, stories
from nanogpt.data.sources.derivation import begin
from nanogpt.data.sources.grammar import Grammar
from nanogpt.data.tokens.settings import TokenizerSettings
from nanogpt.evaluation.grammar.exact_predictions import KINDS, NextTokens, next_words, predict_exactly, probability

GRAMMARS = {"stories": stories.GRAMMAR, "abstracts": abstracts.GRAMMAR}
# Words that begin alike, of one and of several tokens, cells that end within a word, a break of lines, a contraction.
SMALL = Grammar(
    {"TEXT": ["{who=WHO}{END} ran\n\n{^who.he} {WHAT}.", *["{WHO}'ll go{END}"] * 2]},
    {"WHO it he": "he | she; her | hero; heroine | he", "END": "s; ; less", "WHAT": "an hero; a 12; a 123"},
)


@pytest.fixture(scope="module")
def tokenizers(byte, char) -> dict:
    rng = Random(7)
    texts = [grammar.draw(rng)[0] for grammar in (*GRAMMARS.values(), SMALL) for _ in range(200)]
    texts.append(string.printable)
    return {
        "byte": byte,
        "char": train_tokenizer(TokenizerSettings("char", 0, "error"), texts),
        "bpe": train_tokenizer(TokenizerSettings("bpe", 400, "error"), texts),
    }


def all_texts(grammar: Grammar) -> dict[str, float]:
    """Every text with its probability, found by drawing: there are few."""
    rng = Random(3)
    return {text: 2.0**-bits for text, bits in (grammar.draw(rng) for _ in range(4000))}


@pytest.mark.parametrize("kind", ["byte", "char", "bpe"])
def test_the_distribution_is_that_of_all_texts_with_these_first_tokens(tokenizers, kind):
    tok, texts = tokenizers[kind], all_texts(SMALL)
    assert sum(texts.values()) == pytest.approx(1) and len(texts) > 30
    encoded = {(*tok.encode(text), tok.eot): p for text, p in texts.items()}
    assert kind != "bpe" or any(len(tok.pieces[id]) > 2 for ids in encoded for id in ids)
    for ids in encoded:
        following = NextTokens(SMALL, tok)
        for place, id in enumerate(ids):
            expected = defaultdict(float)
            for other, p in encoded.items():
                if other[:place] == ids[:place]:
                    expected[other[place]] += p
            total = sum(expected.values())
            found = following.distribution()
            assert found == pytest.approx({each: p / total for each, p in expected.items()}, rel=1e-9)
            if id != tok.eot:
                following.add(id)
        with pytest.raises(KeyError):
            following.add(tok.vocab_size)


@pytest.mark.parametrize("name", GRAMMARS)
def test_all_continuations_sum_up_to_one_at_a_thousand_places(name):
    """Nothing that may come is lost: joint probabilities of words, which nothing has normalised."""
    rng, places = Random(5), 0
    while places < 1000:
        states = [begin(GRAMMARS[name])]
        while states[0].todo or states[0].written:
            words = next_words(states)
            assert sum(map(probability, words.values())) == pytest.approx(probability(states), rel=1e-9)
            states = words[rng.choice(list(words))]
            places += 1


@pytest.mark.parametrize("name", GRAMMARS)
@pytest.mark.parametrize("kind", ["byte", "char", "bpe"])
def test_the_probabilities_of_a_text_multiply_to_its_own(tokenizers, name, kind):
    rng, tok = Random(6), tokenizers[kind]
    for _ in range(5):
        text, bits = GRAMMARS[name].draw(rng)
        exact = predict_exactly(GRAMMARS[name], text, tok)
        assert exact.ids.tolist() == [tok.eot, *tok.encode(text), tok.eot]
        chosen = exact.candidates == exact.ids[1:][exact.places]
        assert chosen.sum() == len(exact.ids) - 1
        assert -np.log2(exact.p[chosen]).sum() == pytest.approx(bits, rel=1e-9)
        assert np.bincount(exact.places, exact.p) == pytest.approx(np.ones(len(exact.kinds)), abs=1e-9)
        several = np.bincount(exact.places) > 1
        assert ((exact.kinds == KINDS.index("drawn")) == several).all()


def test_kinds_of_places(char, byte):
    grammar = Grammar({"TEXT": ["{who=WHO} ran. {^who.he} sat."]}, {"WHO it he": "Tom | he; Ann | she"})
    exact = predict_exactly(grammar, "Ann ran. She sat.", byte)
    kinds = "".join(KINDS[kind][0] for kind in exact.kinds)
    #       A nn  ran.   She  sat. and the end
    assert kinds == "d" + "ff" + "ffffff" + "rrr" + "fffff" + "f"
    assert exact.p[0] == exact.p[1] == 0.5 and log2(exact.p[0]) == -1
    with pytest.raises(KeyError):
        predict_exactly(grammar, "Ann ran. He sat.", byte)
