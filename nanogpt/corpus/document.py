"""What every source of text yields, and the settings that choose one."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from nanogpt.errors import BadSetting


@dataclass(frozen=True, slots=True)
class Document:
    """One text of a corpus.

    `bits` is -log2 of its exact probability under the generator, end of document included, where
    that is known (built-in corpora). `split` is set where the source brings its own.
    """

    text: str
    bits: float | None = None
    split: Literal["train", "val"] | None = None


@dataclass(frozen=True)
class Corpus:
    """A source of documents. Each call of `documents` starts again from the first, same order."""

    name: str
    licence: str
    documents: Callable[[], Iterator[Document]]


@dataclass(frozen=True)
class DataSettings:
    """Section `data.pretrain` or `data.finetune` of params.yaml."""

    source: Literal["stories", "abstracts", "files"]
    num_samples: int | None
    val_fraction: float
    seed: int
    path: str
    pattern: str
    field: str

    def __post_init__(self) -> None:
        if self.num_samples is not None and self.num_samples < 2:
            raise BadSetting(
                "num_samples",
                self.num_samples,
                "too few to split into training and validation",
                "choose 2 or more, or null for all of a file",
            )
        if self.num_samples is None and self.source != "files":
            raise BadSetting(
                "num_samples", None, f"{self.source} has no end", "say how many documents to draw, like 50000"
            )
        if self.seed < 0:
            raise BadSetting("seed", self.seed, "is negative", "choose a small whole number, like 1")
        if not 0 < self.val_fraction <= 0.5:
            raise BadSetting("val_fraction", self.val_fraction, "not between 0 and 0.5", "choose 0.01 to 0.1")


@dataclass(frozen=True)
class Data:
    """Section `data` of params.yaml: the two corpora by role."""

    pretrain: DataSettings
    finetune: DataSettings
