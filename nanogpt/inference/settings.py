"""Section `sample` of params.yaml."""

from dataclasses import dataclass

from nanogpt.runtime.errors import BadSetting


@dataclass(frozen=True)
class SampleSettings:
    """Section `sample` of params.yaml."""

    prompts: list[str]
    num_samples: int
    max_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None

    def __post_init__(self) -> None:
        for key in ("num_samples", "max_tokens"):
            if getattr(self, key) < 1:
                raise BadSetting(key, getattr(self, key), "must be at least 1", "choose a positive whole number")
        if not self.prompts:
            raise BadSetting(
                "prompts", self.prompts, "names no prompt", 'write at least one, like ["Once upon a time"]'
            )
        if not 0 <= self.temperature < float("inf"):
            raise BadSetting("temperature", self.temperature, "negative or not finite", "choose 0 (greedy) to 1.5")
        if self.top_k is not None and self.top_k < 1:
            raise BadSetting("top_k", self.top_k, "must be at least 1", "choose 10 to 200, or null for all tokens")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise BadSetting("top_p", self.top_p, "not between 0 and 1", "choose 0.8 to 1.0, or null")
