"""Titles and abstracts from arXiv's own API, by category and query: slow, and as new as today."""

from dataclasses import dataclass

from nanogpt.corpus.document import Corpus, DataSettings


@dataclass(frozen=True)
class ArxivSettings:
    """Section `data.arxiv_api` of params.yaml."""

    category: str
    query: str
    url: str
    delay_s: float


def load(settings: DataSettings, own: ArxivSettings) -> Corpus:
    raise NotImplementedError
