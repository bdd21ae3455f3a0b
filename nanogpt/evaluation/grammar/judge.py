"""Judges written texts: whether a grammar can draw them, and where and why not."""

from dataclasses import dataclass

from nanogpt.data.sources.derivation import Failure, derive
from nanogpt.data.sources.grammar import Grammar
from nanogpt.evaluation.grammar.minimal_pairs import Phenomena


@dataclass(frozen=True)
class Mistake:
    """The first word of a text that a grammar cannot draw there.

    `place` in characters. `reason`: the phenomenon of the only choice there is (`terms`: the word is of another
    subject); `words`: none of the words that can stand there; `overlong`: more after an end; `unfinished`: no mistake,
    but no end.
    """

    place: int
    reason: str


def find_mistake(grammar: Grammar, phenomena: Phenomena, text: str) -> Mistake | None:
    """The first mistake in a text, None where it has none."""
    found = derive(grammar, text)
    if not isinstance(found, Failure):
        return None
    if not found.expected:
        return Mistake(found.place, "overlong")
    if found.place == len(text):
        return Mistake(found.place, "unfinished")
    reasons = {tuple(slot and phenomena.of(slot)) or ("words",) if slot else ("words",) for slot in found.expected}
    return Mistake(found.place, reasons.pop()[0] if len(reasons) == 1 else "words")
