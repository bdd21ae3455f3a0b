"""Section `tokenizer` of params.yaml."""

from dataclasses import dataclass, replace
from typing import Literal

from nanogpt.data.tokens.tokenizer import BYTES
from nanogpt.runtime.errors import BadSetting


@dataclass(frozen=True)
class TokenizerSettings:
    """Section `tokenizer` of params.yaml. `vocab_size` counts the end token and is read by bpe only.

    `auto` is what suits the corpus: char for Shakespeare, bpe for all others.
    """

    kind: Literal["auto", "gpt2", "char", "byte", "bpe"]
    vocab_size: int
    unknown: Literal["error", "replace"]

    def __post_init__(self) -> None:
        least = len(BYTES) + 1
        if self.kind in ("auto", "bpe") and self.vocab_size < least:
            raise BadSetting(
                "vocab_size",
                self.vocab_size,
                f"bpe needs {least} at least, one for each byte and the end of a document",
                "choose 1024 to 50257",
            )

    def resolve_auto(self, kind: Literal["bpe", "char"]) -> "TokenizerSettings":
        """These settings with `kind` in place of auto."""
        return replace(self, kind=kind) if self.kind == "auto" else self
