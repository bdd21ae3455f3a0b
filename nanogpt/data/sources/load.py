"""Text from every source through one interface: `load_corpus(data.pretrain, data).documents(skipped)`.

A source is a settings class, a function `load(data_settings, source_settings) -> Corpus`, a section in `Data`, and one
line in the table.
"""

import shutil
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from nanogpt.data.sources import abstracts, arxiv_api, files, hub, shakespeare, stories
from nanogpt.data.sources.arxiv_api import ArxivSettings
from nanogpt.data.sources.document import Corpus, DataSettings
from nanogpt.data.sources.files import FilesSettings
from nanogpt.data.sources.grammar import GeneratorSettings, generated_corpus
from nanogpt.data.sources.hub import HubSettings
from nanogpt.data.sources.shakespeare import ShakespeareSettings
from nanogpt.runtime.errors import UserError

SAMPLE = 200  # documents from which size and time are estimated
BIN_BYTES = 0.4  # bytes of a bin for each byte of text, or more: 2 bytes for a token of 5
MAX_DAYS = 60


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
    "stories": partial(generated_corpus, "stories", stories.GRAMMAR),
    "abstracts": partial(generated_corpus, "abstracts", abstracts.GRAMMAR),
    "tinystories": hub.load,
    "scientific_papers": hub.load,
    "arxiv_api": arxiv_api.load,
    "shakespeare": shakespeare.load,
    "files": files.load,
}


def load_corpus(settings: DataSettings, data: Data) -> Corpus:
    """Open the corpus that the settings name, fetching what is missing. Raises UserError where that fails."""
    return SOURCES[settings.source](settings, getattr(data, settings.source))


def validate_corpus(corpus: Corpus) -> None:
    """Raise UserError where a corpus is too large for the disk of `data`, or one of its texts is unreadable.

    A corpus from outside is read from end to end.
    """
    validate_size(corpus, "data")
    if not corpus.exact:
        for _ in corpus.documents(Counter()):
            pass


def validate_size(corpus: Corpus, folder: Path | str) -> None:
    """Raise UserError where the bins of a generated corpus would not fit on the disk of `folder`, or take months.

    Both are estimated from its first documents; a corpus from outside has a size that exists already.
    """
    if corpus.size is None:
        return
    start = time.monotonic()
    sizes = [len(document.text.encode()) for document in islice(corpus.documents(Counter()), SAMPLE)]
    days = (time.monotonic() - start) / len(sizes) * corpus.size / 86_400
    text = sum(sizes) / len(sizes) * corpus.size
    folder = Path(folder).resolve()
    free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
    if text * BIN_BYTES > free or days > MAX_DAYS:
        shown, needed, left = (tqdm.format_sizeof(number, "B") for number in (text, text * BIN_BYTES, free))
        raise UserError(
            f"data.<role>.num_samples = {corpus.size}: about {shown} of text from {corpus.name}, which takes "
            f"{days:,.0f} days to generate and {needed} or more on the disk, where {left} are free; lower it"
        )
