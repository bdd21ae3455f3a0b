"""Text from every source through one interface: `load_corpus(data.pretrain, data).documents(skipped)`.

A source is one module with a function `load(settings, own) -> Corpus`, the settings of its own, a
section in `Data`, and one line in the table.
"""

from collections import Counter
from dataclasses import dataclass

from nanogpt.data.sources import abstracts, arxiv_api, files, hub, shakespeare, stories
from nanogpt.data.sources.arxiv_api import ArxivSettings
from nanogpt.data.sources.document import Corpus, DataSettings
from nanogpt.data.sources.files import FilesSettings
from nanogpt.data.sources.grammar import GeneratorSettings
from nanogpt.data.sources.hub import HubSettings
from nanogpt.data.sources.shakespeare import ShakespeareSettings


@dataclass(frozen=True)
class Data:
    """Section `data` of params.yaml: the two corpora by role, then what belongs to one source."""

    pretrain: DataSettings
    finetune: DataSettings
    stories: GeneratorSettings
    abstracts: GeneratorSettings
    tinystories: HubSettings
    scientific_papers: HubSettings
    arxiv_api: ArxivSettings
    shakespeare: ShakespeareSettings
    files: FilesSettings


SOURCES = {
    "stories": stories.load,
    "abstracts": abstracts.load,
    "tinystories": hub.load,
    "scientific_papers": hub.load,
    "arxiv_api": arxiv_api.load,
    "shakespeare": shakespeare.load,
    "files": files.load,
}


def load_corpus(settings: DataSettings, data: Data) -> Corpus:
    """The corpus that the settings name. Raises UserError where its source cannot be opened."""
    return SOURCES[settings.source](settings, getattr(data, settings.source))


def validate_corpus(corpus: Corpus) -> None:
    """Read a corpus that comes from outside from end to end, fetching what is missing.

    Raises UserError where something is wrong with it.
    """
    if not corpus.exact:
        for _ in corpus.documents(Counter()):
            pass
