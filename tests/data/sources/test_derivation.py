from collections import Counter
from itertools import islice, pairwise
from random import Random

import pytest
from grammar_scorer import Scorer

from nanogpt.data.sources import abstracts, stories
from nanogpt.data.sources.derivation import Failure, begin, derive, fill
from nanogpt.data.sources.grammar import Grammar

GRAMMAR = Grammar(
    {"TEXT": ["{who=WHO} ran. {^who.he} {DID@who}.", "{WHO} sat."], "DID@cat": ["purred"], "DID@dog": ["barked {HOW}"]},
    {"WHO name kind he": "Tom | cat | he; Ann | dog | she", "HOW": "twice; loudly"},
)


@pytest.mark.parametrize("text", ["Tom ran. He purred.", "Ann ran. She barked loudly.", "Ann sat."])
def test_a_derivation_tells_what_each_slot_wrote(text):
    steps = derive(GRAMMAR, text)
    assert "".join(text[step.start : step.end] for step in steps if step.slot.symbol == "WHO") == text[:3]
    recalled = [text[step.start : step.end] for step in steps if step.slot.recalls]
    assert recalled == text.split()[2:3]
    assert all(step.before.written == text[: step.start].removesuffix(step.slot.before) for step in steps)


@pytest.mark.parametrize(
    ("text", "place", "expected"),
    [("Tom ran. She purred.", 9, {"who"}), ("Tom ran. He barked twice.", 12, {None}),
     ("Ann ran. She barked.", 13, {None}), ("Ann ran. She barked now.", 20, {"HOW"}), ("Ann sat", 7, {None}),
     ("Ann ran. She barked ", 20, {"HOW"}),
     ("Ann sat. ", 8, set()), ("", 0, {"WHO"}), ("Bob sat.", 0, {"WHO"})],
)  # fmt: skip
def test_where_a_text_fails_and_what_could_stand_there(text, place, expected):
    found = derive(GRAMMAR, text)
    assert isinstance(found, Failure) and found.place == place
    assert {slot and (slot.symbol or slot.name) for slot in found.expected} == expected


@pytest.mark.parametrize("grammar", [stories.GRAMMAR, abstracts.GRAMMAR], ids=["stories", "abstracts"])
def test_texts_with_an_exchanged_word_against_a_parser(grammar):
    rng, parser, found = Random(0), Scorer(grammar.rules, grammar.tables), Counter()
    texts = [grammar.draw(rng)[0] for _ in range(60)]
    for text, other in islice(pairwise(texts), 59):
        assert isinstance(derive(grammar, text), list)
        words = text.split(" ")
        words[rng.randrange(len(words))] = rng.choice(other.split(" "))
        changed = " ".join(words)
        derived = derive(grammar, changed)
        assert isinstance(derived, list) == bool(parser.derivations(changed))
        found[isinstance(derived, list)] += 1
        if isinstance(derived, Failure):
            end = derived.place + len(changed[derived.place :].split(" ")[0])
            assert parser.begins(changed[: derived.place]) and not parser.begins(changed[: end + 1])
    assert found[False] > 30


def test_ways_to_go_on_share_the_probability():
    agenda, ends = [begin(stories.GRAMMAR)], 0
    rng = Random(1)
    while ends < 300:
        state = agenda.pop()
        following = list(fill(state))
        assert sum(each.probability for each in following) == pytest.approx(state.probability, rel=1e-12)
        ends += 1
        agenda.append(rng.choice(following) if following[0].todo else begin(stories.GRAMMAR))
