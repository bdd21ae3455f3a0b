"""Figures of the texts that a model writes without a prompt: speed and variety."""

import time
from collections.abc import Iterable
from dataclasses import replace

from nanogpt.inference.settings import Sampling
from nanogpt.inference.writer import Writer

TEXTS = 32
BLOCKS = 2  # a text may be so many times as long as the model's block


def text_figures(writer: Writer, sampling: Sampling, seed: int) -> dict[str, float]:
    """Write TEXTS texts at once, from nothing to their ends, and measure them.

    `first_token_s`: seconds to the first tokens. `tokens_per_s`: tokens a second, all texts together. `distinct_1` and
    `distinct_2`: different words, and pairs of neighbours, over all there are (Li et al. 2016,
    https://arxiv.org/abs/1510.03055).
    """
    longest = BLOCKS * writer.engine.decoder.config.block_size
    sampling = replace(sampling, max_tokens=longest, stop=[])
    start = time.perf_counter()
    texts = [writer.add([], sampling, seed, number) for number in range(TEXTS)]
    writer.step()
    first = time.perf_counter()
    while writer.step():
        pass
    elapsed = time.perf_counter() - start
    written = [text.written for text in texts]
    return {
        "tokens_per_s": sum(len(text.tokens) for text in texts) / elapsed,
        "first_token_s": first - start,
        "distinct_1": distinct(written, 1),
        "distinct_2": distinct(written, 2),
    }


def distinct(texts: Iterable[str], n: int) -> float:
    """Different sequences of n words over all in the texts; 0 where there are none."""
    words = [text.split() for text in texts]
    sequences = [tuple(text[i : i + n]) for text in words for i in range(len(text) - n + 1)]
    return len(set(sequences)) / max(1, len(sequences))
