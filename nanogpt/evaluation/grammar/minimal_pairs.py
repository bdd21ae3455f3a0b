"""Pairs of texts that differ in one choice, which a grammar makes in one of them and never in the other.

As in BLiMP (Warstadt et al. 2020, https://arxiv.org/abs/1912.00582), a model knows a phenomenon where it finds the
right text of a pair the more probable one. Both end with the choice, so that nothing else counts.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random

from nanogpt.data.sources.derivation import State, Step, begin, derive, fill
from nanogpt.data.sources.grammar import Grammar, Slot
from nanogpt.evaluation.grammar.exact_predictions import WORD, next_words, probability

TEXTS = 6  # drawn for each pair of a phenomenon, so that of rare ones there are fewer
WIDEST = 3  # words from the first that differs to the first that cannot be


@dataclass(frozen=True)
class Phenomena:
    """What the slots of a grammar are about.

    `recalled`: the slots of each phenomenon that repeat a row (`hero`), or a column of it (`hero.he`). `opposites`: the
    columns (`turn.did`) that have the opposite in another column of the row, for the phenomenon `outcomes`. `events`:
    groups of rules that tell the same part of different texts. A slot whose table another row decides is a choice of
    `terms`, that of a column `a` one of `articles`.
    """

    recalled: Mapping[str, str]
    opposites: Mapping[str, str]
    events: Sequence[str]

    def of(self, slot: Slot) -> list[str]:
        """The phenomena that a slot belongs to."""
        name = slot_name(slot)
        if slot.recalls:
            found = [phenomenon for phenomenon, slots in self.recalled.items() if name in slots.split()]
            return [*found, *(["outcomes"] if name in self.opposites else [])]
        found = {"terms": slot.at, "articles": name.endswith(".a"), "events": self.event_group(slot)}
        return [phenomenon for phenomenon, here in found.items() if here]

    def event_group(self, slot: Slot) -> list[str]:
        """The rules that tell what the rule of a slot tells in other texts, with it; [] for other slots."""
        return next((group.split() for group in self.events if slot.symbol in group.split()), [])


@dataclass(frozen=True)
class Pair:
    """Two beginnings of texts, equal up to the choice that ends them.

    `probability` is that of the right choice under the grammar; the wrong one's is 0. `distance`: words since that was
    named on which the choice depends, None where it depends on no name.
    """

    phenomenon: str
    right: str
    wrong: str
    probability: float
    distance: int | None


def draw_pairs(grammar: Grammar, phenomena: Phenomena, seed: int, limit: int) -> list[Pair]:
    """Up to `limit` pairs of each phenomenon, always the same for a seed, each from a text of its own."""
    rng, found, pairs = Random(f"pairs {seed}"), Counter(), []
    for _ in range(TEXTS * limit):
        text, other = (_Derived(grammar, grammar.draw(rng)[0]) for _ in range(2))
        full = {phenomenon for phenomenon, count in found.items() if count == limit}
        for step in rng.sample(text.steps, len(text.steps)):
            for phenomenon in [each for each in phenomena.of(step.slot) if each not in full]:
                wrong_texts = _wrong_texts(phenomenon, step, text, other, phenomena, rng)
                if pair := next(filter(None, (text.pair(phenomenon, step, wrong) for wrong in wrong_texts)), None):
                    pairs.append(pair)
                    found[phenomenon] += 1
                    full.add(phenomenon)  # of this text
    return sorted(pairs, key=lambda pair: pair.phenomenon)


def slot_name(slot: Slot) -> str:
    """As a template names it, without a capital: `hero`, `hero.he`."""
    column = slot.key.lstrip("^")
    return f"{slot.name}.{column}" if column else slot.name or ""


class _Derived:
    """A text that a grammar draws."""

    def __init__(self, grammar: Grammar, text: str):
        self.grammar, self.text, self.words = grammar, text, WORD.findall(text)

    @cached_property
    def steps(self) -> list[Step]:
        """Its derivation."""
        return derive(self.grammar, self.text)

    @cached_property
    def states(self) -> list[list[State]]:
        """The states before each word, and after the last."""
        states = [[begin(self.grammar)]]
        for word in self.words:
            states.append(next_words(states[-1])[word])
        return states

    def pair(self, phenomenon: str, step: Step, wrong: str) -> Pair | None:
        """The pair of this text and a wrong one, which ends with its first impossible word; None if it has none.

        The last word of `wrong` may be cut, and is not looked at.
        """
        words = WORD.findall(wrong)[:-1]
        start = next((i for i, both in enumerate(zip(words, self.words, strict=False)) if both[0] != both[1]), None)
        if start is None:
            return None
        states = self.states[start]
        for end in range(start + 1, min(start + WIDEST, len(words), len(self.words)) + 1):
            states = next_words(states).get(words[end - 1])
            if not states:
                chosen = probability(self.states[end]) / probability(self.states[start])
                return Pair(phenomenon, "".join(self.words[:end]), "".join(words[:end]), chosen, self._distance(step))
        return None

    def _distance(self, step: Step) -> int | None:
        name = step.slot.at or (step.slot.name if step.slot.recalls else None)
        ends = [each.end for each in self.steps if each.end <= step.start and name in (each.slot.name, each.slot.at)]
        return len(re.findall(r"\w+", self.text[ends[-1] : step.start])) if name and ends else None


def _wrong_texts(
    phenomenon: str, step: Step, text: _Derived, other: _Derived, phenomena: Phenomena, rng: Random
) -> Iterator[str]:
    """Texts with another choice at a step; the grammar may allow some after all."""
    slot, rows = step.slot, step.before.rows
    before, cell, after = text.text[: step.start], text.text[step.start : step.end], text.text[step.end :]
    if phenomenon == "events":
        for same in other.steps:
            if same.slot.symbol in phenomena.event_group(slot) and same.slot.symbol != slot.symbol:
                written = before.removesuffix(slot.before)
                state = same.before._replace(written=written, rows=same.before.rows | rows)
                while state.todo:
                    state = rng.choice(list(fill(state)))
                yield state.written
    elif phenomenon == "articles":
        article, noun = cell.split(" ", 1)
        yield f"{before}{article[0]}{'' if article[1:] else 'n'} {noun}{after}"
    elif phenomenon == "terms":
        kind = rng.choice([kind for kind in slot.tickets if kind != rows[slot.at]["kind"]])
        _, row, rest = rng.choice(slot.tickets[kind])
        if rest is None:
            yield before + row[slot.key] + after
    elif phenomenon == "outcomes":
        yield before + rows[slot.name][phenomena.opposites[slot_name(slot)]] + after
    elif "." in slot_name(slot) or cell.lower() in before.lower():  # a row is recalled by its name once that was said
        for wrong in _other_cells(step, text.steps, rng):
            if wrong != cell:
                yield before + wrong + after


def _other_cells(step: Step, steps: Sequence[Step], rng: Random) -> list[str]:
    """What other rows would show: first those of the same text, like the other child, then the rest of the table."""
    slot, rows = step.slot, step.before.rows
    columns = rows[slot.name].keys()
    drawn = next(each for each in steps if each.slot.name == slot.name and each.slot.tickets is not None)
    tickets = drawn.slot.tickets[drawn.before.rows[drawn.slot.at]["kind"]] if drawn.slot.at else drawn.slot.tickets
    alike = [row for row in rows.values() if "he" in columns and row.keys() == columns]
    return [row[slot.key] for row in [*alike, *(row for _, row, _ in rng.sample(tickets, len(tickets)))]]
