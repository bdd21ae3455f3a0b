"""Sampling settings with everything left out that a test does not name."""

from nanogpt.inference.settings import Sampling

PLAIN = {
    "num_samples": 2, "max_tokens": 12, "temperature": 1.0, "top_k": None, "top_p": None, "min_p": None,
    "repetition_penalty": 1.0, "stop": [],
}  # fmt: skip


def sampling(**changes) -> Sampling:
    return Sampling(**PLAIN | changes)
