"""What every source of text yields, and the settings of a corpus that do not depend on its source."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from nanogpt.runtime.errors import BadSetting
from nanogpt.runtime.ranges import CheckedSettings, Require

Source = Literal[
    "stories", "abstracts", "tinystories", "scientific_papers", "arxiv_api", "shakespeare", "files"
]  # fmt: skip
ENDLESS = ("stories", "abstracts", "arxiv_api")
SAMPLES = Require(
    lambda n: n >= 2, "too few to split into training and validation", "choose 2 or more, or null for all of a file"
)
FRACTION = Require(lambda x: 1e-9 <= x <= 0.5, "not between 0 and 0.5", "choose 0.01 to 0.1")


@dataclass(frozen=True, slots=True)
class Document:
    """One text of a corpus.

    `bits` is -log2 of its exact probability under the generator, end of document included, where
    that is known (built-in corpora). `split` is set where the source brings its own.
    """

    text: str
    bits: float | None = None
    split: Literal["train", "val"] | None = None


Documents = Callable[[Counter[str]], Iterator[Document]]


@dataclass(frozen=True)
class Corpus:
    """A source of documents. Each call of `documents` starts again from the first, same order.

    `documents(skipped)` adds to `skipped` what it could not use, counted by reason. `exact` says that the texts are
    drawn from a known distribution, to which repeated ones belong. `revision` identifies the state of the source where
    it has versions; `tokenizer` is the kind for `tokenizer.kind: auto`. `size` is the number of documents where
    they are generated on demand, else None. The texts of a `chat` are conversations, see `tokens/chat.py`. A large
    corpus has `parts`: they hold the same documents in the same order, and each can be read without those before it;
    `identity` (JSON values) tells one state of its text from another.
    """

    name: str
    licence: str
    documents: Documents
    exact: bool = False
    revision: str | None = None
    tokenizer: Literal["bpe", "char"] = "bpe"
    size: int | None = None
    chat: bool = False
    parts: Callable[[], Sequence[Documents]] = tuple
    identity: dict = field(default_factory=dict)

    def texts(self) -> Iterator[str]:
        """The texts of all documents; what is skipped is not counted."""
        return (document.text for document in self.documents(Counter()))


@dataclass(frozen=True)
class DataSettings(CheckedSettings):
    """Section `data.pretrain` or `data.finetune` of params.yaml."""

    source: Source
    num_samples: Annotated[int | None, SAMPLES]
    val_fraction: Annotated[float, FRACTION]
    path: str
    pattern: str
    field: str
    format: Literal["text", "chat"]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.format == "chat" and self.source not in ("files", "tinystories", "scientific_papers"):
            reason = f"{self.source} has no records of prompts and answers"
            raise BadSetting("format", "chat", reason, "choose text, or the source files")
        if self.num_samples is None and self.source in ENDLESS:
            remedy = "say how many documents to take, like 50000"
            raise BadSetting("num_samples", None, f"{self.source} has no end", remedy)
