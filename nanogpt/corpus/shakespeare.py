"""Tiny Shakespeare, the text of the well-known character benchmark: a checked download of 1.1 MB."""

from dataclasses import dataclass

from nanogpt.corpus.document import Corpus, DataSettings


@dataclass(frozen=True)
class ShakespeareSettings:
    """Section `data.shakespeare` of params.yaml."""

    url: str


def load(settings: DataSettings, own: ShakespeareSettings) -> Corpus:
    raise NotImplementedError
