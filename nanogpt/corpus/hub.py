"""Data sets of the Hugging Face hub, streamed: as many documents as asked for are fetched, and no more.

Only data files (Parquet, JSON lines, CSV, text) are read; no code of a repository ever runs. Of one
field, the text is taken as it is. Several fields, like title and abstract, are each put on one line and
joined by an empty one.
"""

from dataclasses import dataclass

from nanogpt.corpus.document import Corpus, DataSettings

PAGE = 5000  # documents: some 10 MB


@dataclass(frozen=True)
class HubSettings:
    """Section `data.tinystories` or `data.scientific_papers` of params.yaml."""

    repo: str
    revision: str
    split: str
    fields: list[str]


def load(settings: DataSettings, own: HubSettings) -> Corpus:
    raise NotImplementedError
