"""Section `tokenizer` of params.yaml."""

from dataclasses import dataclass, replace
from typing import Literal

from nanogpt.data.tokens.tokenizer import BYTES
from nanogpt.runtime.errors import BadSetting

MAX_VOCAB_SIZE = 2**20  # an embedding of 256 values an id then takes 1 GiB


@dataclass(frozen=True)
class TokenizerSettings:
    """Section `tokenizer` of params.yaml.

    `kind` auto is char for Shakespeare and bpe for all other corpora. `vocab_size` includes the end token and is used
    by bpe only; auto follows from the size of the corpus (`train_tokenizer.choose_vocab_size`). `unknown` says what
    char does with a character that its corpus lacked. `train_on` both takes half of what bpe learns from, and all that
    char does, from the corpus to adapt to.
    """

    kind: Literal["auto", "gpt2", "char", "byte", "bpe"]
    vocab_size: int | Literal["auto"]
    unknown: Literal["error", "replace"]
    train_on: Literal["pretrain", "both"] = "pretrain"

    def __post_init__(self) -> None:
        least = len(BYTES) + 1
        sized = self.kind in ("auto", "bpe") and self.vocab_size != "auto"
        if sized and not least <= self.vocab_size <= MAX_VOCAB_SIZE:
            raise BadSetting(
                "vocab_size",
                self.vocab_size,
                f"bpe needs {least} to {MAX_VOCAB_SIZE}: one for each byte, one for the end of a document, and pieces",
                "choose auto, or 1024 to 50257",
            )

    def resolve_auto(self, kind: Literal["bpe", "char"]) -> "TokenizerSettings":
        """Return these settings with `kind` in place of auto."""
        return replace(self, kind=kind) if self.kind == "auto" else self
