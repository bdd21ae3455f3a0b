"""Continues many texts at once, one token each at a time: texts enter and leave between two steps."""

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from nanogpt.hardware.memory import available_mib
from nanogpt.inference.decoder import Decoder, Part
from nanogpt.inference.products import WeightDtype
from nanogpt.inference.sampling import Chooser, Token, choose
from nanogpt.inference.settings import Sampling
from nanogpt.model.language_model import LanguageModel

MAX_ROWS = 64  # continued at once, or fewer where their keys and values would take too much; further texts wait
LEAST_COPIED = 8  # tokens; fewer are read again, because a copy would wait until the other text is read
CACHE_SHARE = 1 / 3  # of the free memory that keys and values may take; while they grow, half as much more


@dataclass(eq=False)
class Row:
    """A text that is being continued: its tokens, from which place on the model sees them, how many more it may get."""

    tokens: list[int]
    chooser: Chooser
    left: int
    start: int = 0

    @property
    def length(self) -> int:
        """How many tokens the model sees."""
        return len(self.tokens) - self.start


class Engine:
    """Continuous batching (Yu et al. 2022, Orca): rows 0 to N - 1 of a step are the texts that are being continued.

    A text that ends stays in the cache until its slot is needed, and the beginning that a new text shares with any in
    the cache is copied, not computed again. A context longer than the model's block is cut to its last
    `block_size // 2` tokens and read again, so that the cost of a token stays bounded in texts of any length.
    """

    def __init__(
        self, model: LanguageModel, n_tokens: int, eot: int, dtype: WeightDtype = "float32", max_rows: int = MAX_ROWS
    ):
        self.decoder, self.eot = Decoder(model, n_tokens, dtype), eot
        slot_mib = self.decoder.cache[:, 0].nbytes / 2**20
        self.max_rows = min(max_rows, max(1, int(available_mib() * CACHE_SHARE / slot_mib)))
        self.waiting: deque[Row] = deque()
        self.rows: list[Row] = []  # row i is in slot i
        self.held: list[list[int]] = [[]]  # by slot, the tokens whose keys and values are in it

    def add(
        self, ids: Sequence[int], sampling: Sampling, seed: int, number: int = 0, top_logprobs: int | None = None
    ) -> Row:
        """Let a text be continued, from the next step with a free row on, and return its row.

        The end token is put before `ids`, because documents begin after one. The randomness of a row depends on `seed`
        and `number` alone. At most `sampling.max_tokens` tokens are added, the last of which may be the end token.
        """
        tokens = [self.eot, *ids]
        # Hash seed and number, so that no two pairs are likely to share their randomness.
        chooser = Chooser(sampling, random.Random(f"{seed} {number}"), tokens, top_logprobs)
        row = Row(tokens, chooser, sampling.max_tokens)
        self.waiting.append(row)
        return row

    def remove(self, row: Row) -> None:
        """Stop continuing a text; one that has ended or was removed already is left alone."""
        if row in self.waiting:
            self.waiting.remove(row)
        elif row in self.rows:
            slot, last = self.rows.index(row), len(self.rows) - 1
            self._swap(slot, last)
            self.rows[slot] = self.rows[last]
            self.rows.pop()

    @torch.inference_mode()
    def step(self) -> list[tuple[Row, Token]]:
        """Add a token to every text, up to `max_rows` of them, and return those tokens; rows that end leave.

        Raises UserError if an output of the model is not finite. If prompts cannot be read, no row goes on.
        """
        try:
            self._read_new()
        except BaseException:
            # Nobody knows which keys and values are in the cache, so no text can go on or be the beginning of others.
            self.rows, self.held = [], [[] for _ in self.held]
            raise
        if not self.rows:
            return []
        logits = self.decoder.step([row.tokens[-1] for row in self.rows], [row.length - 1 for row in self.rows])
        tokens = choose(logits, [row.chooser for row in self.rows])
        chosen = list(zip(self.rows, tokens, strict=True))
        for slot, (row, token) in enumerate(chosen):
            self.held[slot].append(row.tokens[-1])
            row.tokens.append(token.id)
            row.left -= 1
        for row, token in chosen:
            if token.id == self.eot or not row.left:
                self.remove(row)
        return chosen

    def _read_new(self) -> None:
        """Let texts enter, and read what the cache lacks of them and of those that were cut."""
        unread: list[Part] = []
        while self.waiting and len(self.rows) < self.max_rows:
            self._enter(self.waiting.popleft(), unread)
        unread += [self._hold(row, slot, 0) for slot, row in enumerate(self.rows) if self._cut(row)]
        self.decoder.read(unread)

    def _enter(self, row: Row, unread: list[Part]) -> None:
        """Give a text the slot after the others, with the longest beginning that any slot holds already.

        Adds to `unread` what is to be read of it. Reads `unread` first if the text's beginning is in one of its slots.
        """
        slot = len(self.rows)
        self._cut(row)
        if slot == self.decoder.slots:
            self.decoder.reserve(min(2 * slot, self.max_rows))
            self.held += [[] for _ in range(self.decoder.slots - slot)]
        shared = [_common_length(row.tokens[row.start : -1], held) for held in self.held]
        shared = [length if length >= LEAST_COPIED else 0 for length in shared]
        source = max(range(len(shared)), key=shared.__getitem__)
        if shared[source] and any(part.slot == source for part in unread):
            self.decoder.read(unread)
            unread.clear()
        if source >= slot:  # a text that has ended: continue in its place
            self._swap(slot, source)
        else:
            self._swap(slot, len(self.held) - 1)  # about the oldest of those that have ended is overwritten
            self.decoder.copy(source, slot, shared[source])
        self.rows.append(row)
        unread.append(self._hold(row, slot, shared[source]))

    def _cut(self, row: Row) -> bool:
        """Let the model see less of a text that is longer than its block; returns whether it was."""
        block_size = self.decoder.config.block_size
        too_long = row.length > block_size
        if too_long:
            row.start = len(row.tokens) - max(1, block_size // 2)
        return too_long

    def _hold(self, row: Row, slot: int, start: int) -> Part:
        """What is to be read of a text from `start` on, but for its last token, which the next step reads."""
        self.held[slot] = row.tokens[row.start : -1]
        return Part(self.held[slot][start:], slot, start)

    def _swap(self, a: int, b: int) -> None:
        self.decoder.swap(a, b, max(len(self.held[a]), len(self.held[b])))
        self.held[a], self.held[b] = self.held[b], self.held[a]


def _common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two texts begin with alike."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
