"""The exact distribution of the next word, and of the next token, in the texts of a grammar."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import regex

from nanogpt.data.sources.derivation import State, begin, derive, fill
from nanogpt.data.sources.grammar import Grammar
from nanogpt.data.tokens.tokenizer import PATTERN, Tokenizer

WORD = regex.compile(PATTERN)  # tokens never reach across the ends of these words, so that each is encoded by itself
END = ""  # the word after the last
KINDS = ("drawn", "recalled", "fixed")


def next_words(states: Sequence[State]) -> dict[str, list[State]]:
    """Every word that may come next, END for none, with the states after it, in which it is no more in `written`.

    Their probabilities sum up to those of `states`.
    """
    words = defaultdict(list)
    agenda = list(states)
    while agenda:
        state = agenda.pop()
        word = WORD.match(state.written)
        # A word is known when it has ended before the text that is written, and a contraction's three characters are.
        if state.todo and not (word and word.end() < len(state.written) and state.written[0] != "'"):
            agenda += fill(state)
            continue
        length = word.end() if word else 0
        words[state.written[:length]].append(state._replace(written=state.written[length:]))
    return dict(words)


def probability(states: Sequence[State]) -> float:
    """That of all that was drawn up to one of these states."""
    return sum(state.probability for state in states)


class _Branch(NamedTuple):
    """A way to go on: the rest of a word in tokens, then one of the states."""

    ids: tuple[int, ...]
    states: list[State]
    probability: float


class NextTokens:
    """What may follow a beginning in a tokenizer's tokens: starts after the end token that opens a text.

    Tokens say more than characters: a word of several tokens rules out the words that are encoded otherwise.
    """

    def __init__(self, grammar: Grammar, tok: Tokenizer):
        self._tok, self._words = tok, {END: (tok.eot,)}
        self._branches = self._by_token([_Branch((), [begin(grammar)], 1.0)])

    def distribution(self) -> dict[int, float]:
        """The probability of each token that can come next, by its id."""
        joint = {id: sum(branch.probability for branch in branches) for id, branches in self._branches.items()}
        total = sum(joint.values())
        return {id: each / total for id, each in joint.items()}

    def add(self, id: int) -> None:
        """Go on after a token. Raises KeyError for one that cannot come."""
        self._branches = self._by_token(self._branches[id])

    def _by_token(self, branches: Sequence[_Branch]) -> dict[int, list[_Branch]]:
        found = defaultdict(list)
        for branch in branches:
            for following in [branch] if branch.ids else self._go_on(branch.states):
                found[following.ids[0]].append(following._replace(ids=following.ids[1:]))
        return dict(found)

    def _go_on(self, states: Sequence[State]) -> list[_Branch]:
        return [_Branch(self._encode(word), after, probability(after)) for word, after in next_words(states).items()]

    def _encode(self, word: str) -> tuple[int, ...]:
        if word not in self._words:
            self._words[word] = tuple(self._tok.encode(word))
        return self._words[word]


@dataclass(frozen=True, eq=False)
class ExactText:
    """A text in tokens, end token first and last, with what can stand in the place of each of the T after the first.

    `ids` (T + 1,) int64. What can come: `places` (N,) int64 ascending, `candidates` (N,) int64 token ids, `p` (N,)
    float64 their probabilities. `kinds` (T,) int64 indexes KINDS: several tokens are possible (drawn), or one, which
    repeats or agrees with what was drawn long before (recalled), or follows from the words beside it (fixed).
    """

    ids: np.ndarray
    places: np.ndarray
    candidates: np.ndarray
    p: np.ndarray
    kinds: np.ndarray


def predict_exactly(grammar: Grammar, text: str, tok: Tokenizer) -> ExactText:
    """The exact predictions at every place of a text that the grammar draws, in ASCII. Raises KeyError for others."""
    steps = derive(grammar, text)
    recalled = np.zeros(len(text) + 1, bool)
    for step in steps if isinstance(steps, list) else []:
        recalled[step.start : step.end] = step.slot.recalls
    ids = [tok.eot, *tok.encode(text), tok.eot]
    following, rows, kinds, at = NextTokens(grammar, tok), [], [], 0
    for place, id in enumerate(ids[1:]):
        distribution = following.distribution()
        rows += [(place, candidate, p) for candidate, p in distribution.items()]
        piece = tok.pieces[id]
        letter = at + (len(piece) - len(piece.lstrip()) if piece.strip() else 0)
        kinds.append(0 if len(distribution) > 1 else 1 if recalled[min(letter, len(text))] else 2)
        at += len(piece)
        if id != tok.eot:
            following.add(id)
    places, candidates, p = zip(*rows, strict=True)
    return ExactText(np.array(ids), np.array(places), np.array(candidates), np.array(p), np.array(kinds))
