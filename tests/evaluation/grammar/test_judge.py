import pytest

from nanogpt.data.sources.grammar import Grammar
from nanogpt.evaluation.grammar.judge import Mistake, find_mistake
from nanogpt.evaluation.grammar.minimal_pairs import Phenomena

GRAMMAR = Grammar(
    {"TEXT": ["{who=WHO} ran {HOW}. {^who.he} {DID@who}."]},
    {"WHO it kind he": "Tom | cat | he; Ann | dog | she", "HOW": "fast; far", "DID@cat": "purred", "DID@dog": "barked"},
)
PHENOMENA = Phenomena({"pronouns": "who.he"}, {}, [])


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("Tom ran fast. He purred.", None),
        ("Tom ran fast. She purred.", Mistake(14, "pronouns")),
        ("Tom ran fast. He barked.", Mistake(17, "terms")),
        ("Tom ran slowly. He purred.", Mistake(8, "words")),
        ("Tom walked fast.", Mistake(4, "words")),
        ("Tom ran fast. He purred. He", Mistake(24, "overlong")),
        ("Tom ran fast. H", Mistake(15, "unfinished")),
        ("", Mistake(0, "unfinished")),
    ],
)
def test_the_first_mistake_and_its_reason(text, mistake):
    assert find_mistake(GRAMMAR, PHENOMENA, text) == mistake
