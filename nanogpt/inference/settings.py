"""Sampling settings, and section `sample` of params.yaml."""

from dataclasses import dataclass
from math import inf
from typing import Annotated, Literal

from nanogpt.inference.products import WeightDtype
from nanogpt.runtime.ranges import CheckedSettings, PositiveInt, Require, is_unicode

NOT_A_SHARE = "not between 0 and 1"
Texts = Annotated[
    list[str],
    Require(all, "a text is empty", "write some, or remove it"),
    Require(lambda texts: all(map(is_unicode, texts)), "a text is not in UTF-8", "write it again"),
]


@dataclass(frozen=True)
class Sampling(CheckedSettings):
    """How texts are drawn: how many per prompt, how many tokens each at most, and how each token is chosen.

    temperature: 0, or nearly 0, chooses the likeliest token. top_k, top_p, min_p: see `sampling.choose`.
    repetition_penalty: above 1 it makes tokens less likely that are in the text already. stop: strings that end a text,
    and are not part of it.
    """

    num_samples: PositiveInt
    max_tokens: PositiveInt
    temperature: Annotated[float, Require(lambda x: 0 <= x < inf, "negative or not finite", "choose 0 (greedy) to 1.5")]
    top_k: Annotated[int | None, Require(lambda n: n >= 1, "must be at least 1", "choose 10 to 200, or null for all")]
    top_p: Annotated[float | None, Require(lambda x: 0 < x <= 1, NOT_A_SHARE, "choose 0.8 to 1.0, or null")]
    min_p: Annotated[float | None, Require(lambda x: 0 < x <= 1, NOT_A_SHARE, "choose 0.02 to 0.1, or null")]
    repetition_penalty: Annotated[
        float, Require(lambda x: 0.1 <= x <= 10, "not between 0.1 and 10", "choose 1.0 (none) to 1.3")
    ]
    stop: Texts

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is chosen: logits over a smaller temperature might overflow."""
        return self.temperature < 1e-5


@dataclass(frozen=True)
class SampleSettings(Sampling):
    """Section `sample` of params.yaml: how texts are drawn, in which format of weights, and which they continue."""

    dtype: WeightDtype | Literal["auto"]
    prompts: Annotated[Texts, Require(len, "names no prompt", 'write at least one, like ["Once upon a time"]')]
