"""Stores documents fetched from the network page by page, so that an interruption loses one page at most.

A page is a gzip file, whose checksum covers all of it, that appears complete or not at all. Its first line is the
state from which fetching continues after it, the others are its documents as JSON strings, so pages and state cannot
disagree. Nothing is fetched twice: asking for more documents only adds pages.
"""

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from tqdm import tqdm

from nanogpt.data.sources.document import Document
from nanogpt.runtime import atomic
from nanogpt.runtime.errors import UserError


class Pages:
    """The pages of one folder, in order.

    `documents` is the number of documents in all of them, `states` has the state of each page. Raises UserError
    where a page is damaged.
    """

    def __init__(self, folder: Path):
        self.folder, self.documents, self.states = folder, 0, []
        while (path := self._path(len(self.states))).exists():
            texts, state = _read_page(path)
            self.documents += len(texts)
            self.states.append(state)

    def append(self, texts: list[str], state: dict) -> None:
        """Write one more page; `state` is of JSON values. Raises UserError where it cannot be written."""
        lines = "".join(json.dumps(value) + "\n" for value in ([len(texts), state], *texts))
        path = self._path(len(self.states))
        if path.exists():
            raise UserError(
                f"{path}: appeared meanwhile; wait for the other run that fetches the same, then run this one again "
                f"(or delete the folder {self.folder} if there is none)"
            )
        try:
            atomic.write_bytes(path, gzip.compress(lines.encode(), 1))
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror}); what was fetched before is kept") from None
        self.documents += len(texts)
        self.states.append(state)

    def fetch(self, wanted: int | None, fetch_pages: Callable[[list[dict]], Iterator[tuple[list[str], dict]]]) -> None:
        """Append the pages that `fetch_pages(states)` yields, until there are `wanted` documents (None: all).

        The last state of a source that has ended carries `"end": true`; then there is nothing to fetch.
        """
        if self._is_complete(wanted):
            return
        name = self.folder.name.rpartition("-")[0]
        with tqdm(desc=name, total=wanted, initial=self.documents, unit=" documents", mininterval=1) as bar:
            for texts, state in fetch_pages(self.states):
                self.append(texts, state)
                bar.update(len(texts))
                if self._is_complete(wanted):
                    return

    def read_documents(self, wanted: int | None, skipped: Counter[str]) -> Iterator[Document]:
        """Yield the first `wanted` documents (None: all), one page in memory at a time.

        Adds to `skipped` what the states of their pages count under "skipped". Raises UserError where one is damaged.
        """
        read = 0
        for number, state in enumerate(self.states):
            if wanted is None or read < wanted:
                texts, _ = _read_page(self._path(number))
                skipped.update(state.get("skipped", {}))
                yield from map(Document, map(json.loads, texts[: wanted and wanted - read]))
                read += len(texts)

    def _is_complete(self, wanted: int | None) -> bool:
        ended = bool(self.states) and self.states[-1].get("end", False)
        return ended or (wanted is not None and self.documents >= wanted)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06}.jsonl.gz"


def _read_page(path: Path) -> tuple[list[bytes], dict]:
    """The documents of a page, each as a JSON string, and its state. Raises UserError where it is damaged."""
    try:
        with gzip.open(path) as file:
            first, *texts = file.read().splitlines()
        documents, state = json.loads(first)
        if len(texts) != documents:  # two files one after the other are a valid gzip file
            raise ValueError(f"{len(texts)} documents instead of {documents}")
        return texts, state
    except (OSError, EOFError, ValueError, TypeError, zlib.error) as error:
        raise UserError(f"{path}: damaged ({error}); delete the folder {path.parent} and fetch again") from None
