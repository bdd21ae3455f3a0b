"""Section `evaluate` of params.yaml."""

from dataclasses import dataclass

from nanogpt.runtime.ranges import CheckedSettings, PositiveInt


@dataclass(frozen=True)
class EvaluateSettings(CheckedSettings):
    """How much is asked of a model about each built-in text, which narrows the intervals and takes time.

    pairs: minimal pairs of each phenomenon. texts: those whose every place is predicted, and those that it writes.
    """

    pairs: PositiveInt
    texts: PositiveInt
