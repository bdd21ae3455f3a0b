"""Settings of the benchmark: the shape of its models and how they are trained."""

from dataclasses import dataclass
from typing import Literal

from nanogpt.hardware.device import Dtype
from nanogpt.model.config import ModelConfig
from nanogpt.runtime.ranges import CheckedSettings, PositiveInt, Threads


@dataclass(frozen=True)
class BenchmarkSettings(CheckedSettings):
    """Section `benchmark` of params.yaml. It has its own shape, so that changing `model` does not rerun it."""

    n_layer: int
    n_head: int
    n_kv_head: int
    n_embd: int
    block_size: int
    vocab_size: PositiveInt
    batch_size: PositiveInt
    num_iters: PositiveInt
    dtype: Dtype
    compile: Literal["auto", "off"]
    threads: Threads

    def __post_init__(self) -> None:
        super().__post_init__()
        self.config("optimized")

    def config(self, arch: Literal["base", "optimized"]) -> ModelConfig:
        """The model of either architecture at the benchmark's shape."""
        return ModelConfig(
            arch=arch, n_layer=self.n_layer, n_head=self.n_head, n_kv_head=self.n_kv_head, n_embd=self.n_embd,
            block_size=self.block_size, dropout=0.0, tie_embeddings=False, qk_norm=False, vocab_size=self.vocab_size,
        )  # fmt: skip

    @property
    def tokens(self) -> int:
        """Tokens in a step."""
        return self.batch_size * self.block_size
