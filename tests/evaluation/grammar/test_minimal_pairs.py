from collections import Counter, defaultdict

import pytest
from grammar_scorer import Scorer

from nanogpt.data.sources.grammar import Grammar
from nanogpt.evaluation.grammar.exact_predictions import WORD
from nanogpt.evaluation.grammar.minimal_pairs import WIDEST, Phenomena, draw_pairs
from nanogpt.evaluation.grammar.phenomena import GRAMMARS


@pytest.fixture(scope="module", params=GRAMMARS)
def drawn(request):
    grammar, phenomena = GRAMMARS[request.param]
    return grammar, phenomena, draw_pairs(grammar, phenomena, seed=1, limit=10)


def test_one_is_right_and_the_other_is_not(drawn):
    grammar, _, pairs = drawn
    parser = Scorer(grammar.rules, grammar.tables)
    for pair in pairs:
        right, wrong = WORD.findall(pair.right), WORD.findall(pair.wrong)
        differ = next(i for i, both in enumerate(zip(right, wrong, strict=True)) if both[0] != both[1])
        assert differ >= len(right) - WIDEST
        assert parser.begins(pair.right) and not any(parser.begins(pair.wrong + after) for after in " .,!:%\"'\n")
        assert parser.begins("".join(wrong[:-1]))
        assert 0 < pair.probability <= 1 + 1e-12


def test_every_phenomenon_has_pairs_of_different_texts(drawn):
    _, phenomena, pairs = drawn
    counts = Counter(pair.phenomenon for pair in pairs)
    assert {*phenomena.recalled, "articles", "events"} <= counts.keys()
    assert max(counts.values()) == counts["articles"] == counts["objects"] == counts["events"] == 10
    for phenomenon in counts:
        assert len({pair.right for pair in pairs if pair.phenomenon == phenomenon}) == counts[phenomenon]


def test_equal_seeds_give_equal_pairs(drawn):
    grammar, phenomena, pairs = drawn
    assert draw_pairs(grammar, phenomena, 1, 10) == pairs
    assert not set(draw_pairs(grammar, phenomena, 2, 10)) & set(pairs)


def test_what_each_phenomenon_is_about():
    grammar = Grammar(
        {
            "TEXT": ["{who=WHO} has {pet=PET.a}. {^who.he} likes the {pet} that {pet.sound}. {FIRST}", "{SECOND}"],
            "FIRST": ["{who} {DID@pet}."], "SECOND": ["{who=WHO} and {pet=PET} left."],
        },
        {
            "WHO it he": "Tom | he; Ann | she", "DID@fur": "brushed", "DID@skin": "washed",
            "PET it a sound kind": "owl | an ~ | hoots | fur; pig | a ~ | grunts | skin",
        },
    )  # fmt: skip
    recalled = {"names": "who pet", "pronouns": "who.he", "belongings": "pet.sound"}
    pairs = draw_pairs(grammar, Phenomena(recalled, {}, ["FIRST SECOND"]), seed=3, limit=6)
    by = defaultdict(set)
    for pair in pairs:
        by[pair.phenomenon].add((pair.right, pair.wrong, round(pair.probability, 6), pair.distance))
    # "Tom has" and "Tom and": the first word decides between both texts with 1/2
    assert ("Tom has an owl. He", "Tom has an owl. She", 1.0, 3) in by["pronouns"]
    assert (
        "Ann has a pig. She likes the pig that grunts",
        "Ann has a pig. She likes the pig that hoots",
        1.0,
        1,
    ) in by["belongings"]
    assert {pair[3] for pair in by["names"]} == {3, 5} and ("Tom has an owl", "Tom has a owl", 0.5, None) in by[
        "articles"
    ]
    assert {right.split()[-1] for right, *_ in by["terms"]} <= {"brushed", "washed"} and by["terms"]
