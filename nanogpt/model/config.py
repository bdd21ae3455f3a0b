"""The shape of a model: section `model` of params.yaml, and the whole with the tokenizer's vocabulary."""

from dataclasses import asdict, dataclass
from typing import Literal

from nanogpt.runtime.errors import BadSetting
from nanogpt.runtime.ranges import CheckedSettings, Dropout, PositiveInt


@dataclass(frozen=True)
class HuggingFaceNames:
    """What Hugging Face's transformers calls an architecture and its parts; embedding and layers are module paths.

    `transposed` are the ends of names of weights that transformers stores transposed.
    """

    title: str
    model_class: str
    model_type: str
    embedding: str
    layers: str
    transposed: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelSettings(CheckedSettings):
    """Section `model` of params.yaml."""

    arch: Literal["base", "optimized"]
    n_layer: PositiveInt
    n_head: PositiveInt
    n_kv_head: PositiveInt
    n_embd: PositiveInt
    block_size: PositiveInt
    dropout: Dropout
    tie_embeddings: bool
    qk_norm: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_embd % self.n_head:
            step = 2 * self.n_head  # heads of even width work in both architectures
            nearest = max(1, round(self.n_embd / step)) * step
            raise BadSetting("n_embd", self.n_embd, f"{self.n_head} heads do not divide it", f"try {nearest}")
        if self.n_head % self.n_kv_head:
            divisors = [d for d in range(1, self.n_head + 1) if self.n_head % d == 0]
            reason = f"it does not divide the {self.n_head} heads"
            raise BadSetting("n_kv_head", self.n_kv_head, reason, f"choose one of {divisors}")
        if self.arch == "optimized" and self.head_dim % 2:
            reason = f"heads of odd width {self.head_dim}, which rotary positions cannot pair up"
            raise BadSetting("n_embd", self.n_embd, reason, f"try {self.n_embd + self.n_head}")

    @property
    def initial_std(self) -> float:
        """Standard deviation of initial weights: about GPT-2's 0.02 at GPT-2's width, larger in narrower models.

        With 0.02 the attention of a narrow model starts nearly uniform, and it learns late to use earlier tokens.
        sqrt(2 / (5 n_embd)) is from Nguyen & Salazar 2019, https://arxiv.org/abs/1910.05895.
        """
        return (2 / (5 * self.n_embd)) ** 0.5

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values: `n_kv_head`, or in base, which does not group them, as many as of queries."""
        return self.n_kv_head if self.arch == "optimized" else self.n_head

    @property
    def qk_normed(self) -> bool:
        """Whether queries and keys are normalised: `qk_norm`, but never in base, which has no such norms."""
        return self.qk_norm and self.arch == "optimized"

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.n_embd // self.n_head


@dataclass(frozen=True)
class ModelConfig(ModelSettings):
    """The complete shape of a model. `vocab_size` counts rows of the embedding, padding included.

    New models have the defaults; models that others trained may have other values.
    """

    vocab_size: int
    mlp_hidden: int | None = None  # hidden width of the MLP; None is the architecture's default
    norm_eps: float = 1e-5
    activation: Literal["gelu_new", "gelu"] = "gelu_new"  # base: GELU in its tanh form, or exact
    rope_theta: float = 10_000.0  # optimized: base of the rotary positions' wavelengths

    def to_dict(self) -> dict:
        """The fields, with tied embeddings under the name by which PEFT asks for them."""
        return asdict(self) | {"tie_word_embeddings": self.tie_embeddings}
