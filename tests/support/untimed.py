"""A race without a clock."""

from collections.abc import Callable

from nanogpt.benchmark.timing import Times


def untimed(entries: dict[str, Callable], steps: int) -> Times:
    """A race without a clock, in this process: every step is made, and each takes a second more than the last."""
    made = [step for entry in entries.values() for step in entry()]
    return Times({name: [place + 1.0] for place, name in enumerate(made)}, dict.fromkeys(entries, 100.0))
