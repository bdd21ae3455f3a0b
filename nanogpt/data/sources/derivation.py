"""How a grammar can draw a text: its derivation, or where it has none, and every way to go on from a beginning."""

from collections.abc import Iterator
from typing import NamedTuple

from nanogpt.data.sources.grammar import Grammar, Row, Slot

Todo = tuple[Slot, "Todo | None"]  # a linked list


class State(NamedTuple):
    """A text on its way: what is written, the slots to fill (None at its end), the rows that are remembered.

    `probability` is that of all draws so far together.
    """

    probability: float
    written: str
    todo: Todo | None
    rows: dict[str, Row]


class Step(NamedTuple):
    """A slot of `before`, which was filled with text[start:end]: nothing yet for an alternative of a rule."""

    slot: Slot
    start: int
    end: int
    before: State


class Failure(NamedTuple):
    """The word, by its place in characters, where no derivation goes on: the length of a text that only lacks its end.

    `expected` is what could stand there: slots, or None for words between slots; nothing where only an end would do.
    """

    place: int
    expected: list[Slot | None]


def begin(grammar: Grammar) -> State:
    """The state before the first word."""
    return State(1.0, "", chain(*grammar.start, None), {})


def chain(slots: list[Slot], tail: str, rest: Todo | None) -> Todo:
    """Slots and the text after them, before `rest`."""
    chained = (Slot(tail, None, None, "", None, None), rest)
    for slot in reversed(slots):
        chained = (slot, chained)
    return chained


def fill(state: State) -> Iterator[State]:
    """Fill the next slot in every way there is; the probabilities sum up to that of the state."""
    slot, rest = state.todo
    written = state.written + slot.before
    if slot.tickets is None:
        cell = state.rows[slot.name][slot.key] if slot.name else ""
        yield State(state.probability, written + cell, rest, state.rows)
        return
    tickets = slot.tickets[state.rows[slot.at]["kind"]] if slot.at else slot.tickets
    probability = state.probability / len(tickets)
    for _, drawn, tail in tickets:
        if tail is not None:
            yield State(probability, written, chain(drawn, tail, rest), state.rows)
        else:
            rows = state.rows | {slot.name: drawn} if slot.name else state.rows
            yield State(probability, written + drawn[slot.key], rest, rows)


def derive(grammar: Grammar, text: str) -> list[Step] | Failure:
    """The steps that draw exactly this text, or where it fails."""
    place, expected = -1, []
    agenda: list[tuple[State, tuple | None]] = [(begin(grammar), None)]  # each with the path to it, a linked list
    while agenda:
        state, path = agenda.pop()
        if state.todo is None and len(state.written) == len(text):
            return _steps(state, path)
        for following in fill(state) if state.todo else ():
            if text.startswith(following.written):
                agenda.append((following, (state, path)))
                continue
            reached = len(state.written)
            while reached < len(text) and following.written.startswith(text[reached], reached):
                reached += 1
            space = max(text.rfind(" ", 0, reached), text.rfind("\n", 0, reached))
            word = reached if reached == len(text) else space + 1
            if word > place:
                place, expected = word, []
            if word == place:
                slot = state.todo[0]
                begun = word >= len(state.written) + len(slot.before)
                expected.append(slot if begun and (slot.symbol or slot.recalls) else None)
        if state.todo is None and len(state.written) > place:
            place, expected = len(state.written), []
    return Failure(place, expected)


def _steps(state: State, path: tuple | None) -> list[Step]:
    steps = []
    while path:
        before, path = path
        slot = before.todo[0]
        steps.append(Step(slot, len(before.written) + len(slot.before), len(state.written), before))
        state = before
    return steps[::-1]
