"""Abstracts of papers in eight fields of science, drawn from a grammar: a question, a study, an outcome.

The topic decides the field and with it every term that follows; the outcome confirms or overturns what
was expected, and the conclusion agrees with it.
"""

from nanogpt.data.sources.abstract_words import TABLES
from nanogpt.data.sources.grammar import Grammar

RULES = {
    "TEXT": ["{QUESTION} {STUDY} {OUTCOME}"],
    "QUESTION": [
        "In this paper {topic=TOPIC} meet {cause=CAUSE@topic}. This is {UNCLEAR}. We {EXPECTED} {effect=EFFECT@topic}"
        " to {turn=TURN}.",
        "We study {topic=TOPIC} under {cause=CAUSE@topic}. {^OFTEN}, {effect=EFFECT@topic} should then {turn=TURN}.",
        "Do {topic=TOPIC} depend on {cause=CAUSE@topic}? We {TESTED} whether {effect=EFFECT@topic} would {turn=TURN}.",
        "{^topic=TOPIC} are {SELDOM} studied under {cause=CAUSE@topic}. Our {MODEL} says that {effect=EFFECT@topic}"
        " must {turn=TURN}.",
    ],
    "STUDY": [
        "With {method=METHOD@topic.a} we {FOLLOWED} {count=COUNT} {unit=UNIT@topic} in {country=COUNTRY} for {SPAN}.",
        "In {country=COUNTRY}, {method=METHOD@topic.a} {GAVE} {count=COUNT} {unit=UNIT@topic} over {SPAN}.",
        "{^method=METHOD@topic.a} was {RUN} for {SPAN} on {count=COUNT} {unit=UNIT@topic} from {country=COUNTRY}.",
        "We {FOLLOWED} {count=COUNT} {unit=UNIT@topic} in {country=COUNTRY} for {SPAN} and used"
        " {method=METHOD@topic.a}.",
    ],
    "OUTCOME": [*["{CONFIRMED} {DETAIL} {AGREED}"] * 3, *["{OVERTURNED} {DETAIL} {DISAGREED}"] * 2],
    "CONFIRMED": [
        "As {FORESEEN}, {effect} {turn.did} by {PERCENT}.{DIGIT}%, {ABOVEALL} in {GROUP@topic}.",
        "{INDEED} {effect} {turn.did}, by {PERCENT}.{DIGIT}% overall and by {SHARE}.{DIGIT}% in {GROUP@topic}.",
    ],
    "OVERTURNED": [
        "{INSTEAD}, {effect} {turn.undid} by {PERCENT}.{DIGIT}%, {ABOVEALL} in {GROUP@topic}.",
        "To our {SURPRISE} {effect} {turn.undid}, by {PERCENT}.{DIGIT}% overall and by {SHARE}.{DIGIT}% in"
        " {GROUP@topic}.",
    ],
    "DETAIL": [
        "All but {FEW} of the {count} {unit} agreed, so {DOUBT} cannot {EXPLAIN} it.",
        "The {method} {RULEDOUT} {DOUBT} in all but {FEW} {unit}.",
        "After correction for {DOUBT}, {SHARE}.{DIGIT}% of the {unit} in {country} {STILL} showed this.",
    ],
    "AGREED": [
        "{^THUS} {cause} may {SHAPE} {topic}, and {USE@topic}.",
        "These data {CONFIRM} our view of {topic}, and {USE@topic}.",
    ],
    "DISAGREED": [
        "{^THUS} {cause} cannot {SHAPE} {topic}, although {USE@topic}.",
        "We {REJECT} the idea that {effect} must {turn}; for {topic}, {USE@topic}.",
    ],
}

GRAMMAR = Grammar(RULES, TABLES)
