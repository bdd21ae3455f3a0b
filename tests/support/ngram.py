"""A word 5-gram model with interpolated modified Kneser-Ney smoothing (Chen and Goodman 1999, section 3).

The yardstick for the built-in corpora: what can be known from the last four words and no more.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from math import log2

TOKEN = re.compile(r" ?[\w']+| ?[^\w\s]|\s")  # every character of a text is in exactly one token
ORDER = 5
WIDTH = 16  # bits of a token's number; an n-gram is its numbers side by side in one integer
START, END = 0, 1


class Ngram:
    """Trained on texts; gives the bits of a text, its end included. All unseen tokens count as one (to its favour)."""

    def __init__(self, texts: Iterable[str]):
        self.numbers = defaultdict(lambda: len(self.numbers) + 2)  # token -> number, after START and END
        numbered = ([self.numbers[token] for token in TOKEN.findall(text)] for text in texts)
        highest = Counter(gram for numbers in numbered for gram in self._grams(numbers))
        self.numbers.default_factory = None
        # Below the highest order a gram counts once for each different word that it was seen after.
        self.counts = [highest]
        for order in range(ORDER - 1, 0, -1):
            self.counts.insert(0, Counter(gram & _mask(order) for gram in self.counts[0]))
        self.discounts = [_discounts(counts) for counts in self.counts]
        self.contexts = [_contexts(*pair) for pair in zip(self.counts, self.discounts, strict=True)]

    def bits(self, text: str) -> float:
        """-log2 of the probability of the text and its end."""
        unseen = len(self.numbers) + 2
        return sum(map(self._bits, self._grams([self.numbers.get(t, unseen) for t in TOKEN.findall(text)])))

    def _bits(self, gram: int) -> float:
        probability = 1 / (len(self.numbers) + 2)  # each token seen, the end, one for all unseen
        for order in range(1, ORDER + 1):
            part = gram & _mask(order)
            total, left_over = self.contexts[order - 1].get(part >> WIDTH, (0, 0))
            if not total:
                break
            count = self.counts[order - 1][part]
            kept = count - self.discounts[order - 1][min(count, 3)]
            probability = (kept + left_over * probability) / total
        return -log2(probability)

    def _grams(self, numbers: list[int]) -> Iterable[int]:
        gram = START
        for number in [*numbers, END]:
            gram = (gram << WIDTH | number) & _mask(ORDER)
            yield gram


def _mask(order: int) -> int:
    return (1 << WIDTH * order) - 1


def _discounts(counts: Counter) -> list[float]:
    """What is taken off a count of 0, 1, 2, 3 or more, from how many n-grams were seen 1, 2, 3 and 4 times."""
    n = Counter(counts.values())
    if not all(n[i] for i in (1, 2, 3, 4)):
        return [0, 0.5, 0.5, 0.5]
    y = n[1] / (n[1] + 2 * n[2])
    return [0] + [min(max(i - (i + 1) * y * n[i + 1] / n[i], 0.05), i - 0.05) for i in (1, 2, 3)]


def _contexts(counts: Counter, discounts: list[float]) -> dict[int, tuple[int, float]]:
    """For each context how often it was seen, and how much the discounts took off there in all."""
    seen: dict[int, list[float]] = defaultdict(lambda: [0, 0.0])
    for gram, count in counts.items():
        context = seen[gram >> WIDTH]
        context[0] += count
        context[1] += discounts[min(count, 3)]
    return {gram: (total, taken) for gram, (total, taken) in seen.items()}
