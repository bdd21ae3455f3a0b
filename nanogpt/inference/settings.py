"""Sampling settings, and section `sample` of params.yaml."""

from dataclasses import dataclass
from math import inf
from typing import Annotated

from nanogpt.runtime.ranges import CheckedSettings, PositiveInt, Require


@dataclass(frozen=True)
class Sampling(CheckedSettings):
    """How texts are drawn: how many per prompt, how many tokens each at most, and how each token is chosen.

    temperature: 0 chooses the likeliest token; top_k, top_p: see `sampling.filter_logits`.
    """

    num_samples: PositiveInt
    max_tokens: PositiveInt
    temperature: Annotated[float, Require(lambda x: 0 <= x < inf, "negative or not finite", "choose 0 (greedy) to 1.5")]
    top_k: Annotated[int | None, Require(lambda n: n >= 1, "must be at least 1", "choose 10 to 200, or null for all")]
    top_p: Annotated[float | None, Require(lambda x: 0 < x <= 1, "not between 0 and 1", "choose 0.8 to 1.0, or null")]


@dataclass(frozen=True)
class SampleSettings(Sampling):
    """Section `sample` of params.yaml: how texts are drawn, and the prompts that they continue."""

    prompts: Annotated[
        list[str],
        Require(len, "names no prompt", 'write at least one, like ["Once upon a time"]'),
        Require(all, "a prompt is empty", "write some text, or remove it"),
    ]
