from collections import Counter
from itertools import islice, pairwise
from random import Random

import pytest
from grammar_scorer import Scorer
from sampling_settings import sampling

from nanogpt.data.sources import abstracts, stories
from nanogpt.data.sources.grammar import Grammar
from nanogpt.evaluation.text_figures import GRAMMARS, TEXTS, distinct, text_figures
from nanogpt.inference.writer import Writer

GRAMMAR = Grammar(
    {"TEXT": ["{who=WHO} ran. {^who.he} {DID@who}.", "{WHO} sat."], "DID@cat": ["purred"], "DID@dog": ["barked {HOW}"]},
    {"WHO name kind he": "Tom | cat | he; Ann | dog | she", "HOW": "twice; loudly"},
)


@pytest.mark.parametrize(
    ("text", "accepted"),
    [("Tom ran. He purred.", True), ("Ann ran. She barked loudly.", True), ("Ann sat.", True),
     ("Tom ran. She purred.", False), ("Tom ran. He barked twice.", False), ("Ann ran. She barked.", False),
     ("Ann sat", False), ("Ann sat. ", False), ("", False)],
)  # fmt: skip
def test_what_a_grammar_accepts(text, accepted):
    assert GRAMMAR.accepts(text) == accepted


@pytest.mark.parametrize("grammar", [stories.GRAMMAR, abstracts.GRAMMAR], ids=["stories", "abstracts"])
def test_texts_with_an_exchanged_word_against_a_parser(grammar):
    rng, parser, found = Random(0), Scorer(grammar.rules, grammar.tables), Counter()
    texts = [grammar.draw(rng)[0] for _ in range(60)]
    for text, other in islice(pairwise(texts), 59):
        assert grammar.accepts(text)
        words = text.split(" ")
        words[rng.randrange(len(words))] = rng.choice(other.split(" "))
        changed = " ".join(words)
        assert grammar.accepts(changed) == bool(parser.derivations(changed))
        found[grammar.accepts(changed)] += 1
    assert found[False] > 30


def test_distinct():
    assert distinct(["a b a b", "a b"], 1) == 2 / 6 and distinct(["a b a b", "a b"], 2) == 2 / 4
    assert distinct([], 1) == distinct(["a"], 2) == 0


def test_figures_of_texts(tiny, byte, monkeypatch):
    writer = Writer(tiny().eval(), byte, "float32")
    expected = [text.written for text in writer.write([""], sampling(num_samples=TEXTS, max_tokens=32), 4)[0]]
    for share, accepted in ((0.0, lambda text: False), (1.0, lambda text: text in expected)):
        monkeypatch.setattr(GRAMMARS["stories"], "accepts", accepted)
        figures = text_figures(writer, ["cats", "stories"], sampling(num_samples=2, max_tokens=5, stop=["a"]), 4)
        assert figures.pop("accepted_stories") == share
        assert figures["distinct_1"] == distinct(expected, 1) and figures["distinct_2"] == distinct(expected, 2)
        assert 0 < figures["first_token_s"] < 60 and figures["tokens_per_s"] > 0 and len(figures) == 4
