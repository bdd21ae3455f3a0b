"""Text from every source through one interface: `corpus.load(settings).documents()`.

A source is one module with a function `load(settings, seed) -> Corpus` and one line in the table.
"""

from nanogpt.corpus import abstracts, files, stories
from nanogpt.corpus.document import Corpus, DataSettings, Document

SOURCES = {"stories": stories.load, "abstracts": abstracts.load, "files": files.load}


def load(settings: DataSettings) -> Corpus:
    """The corpus that the settings name. Raises UserError where its source cannot be opened."""
    return SOURCES[settings.source](settings)


def look(settings: DataSettings) -> None:
    """Read a source that lies outside the program from end to end. Raises UserError where it is at fault."""
    if settings.source == "files":
        for _ in load(settings).documents():
            pass


__all__ = ["SOURCES", "Corpus", "DataSettings", "Document", "load"]
