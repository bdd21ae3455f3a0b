"""Stores documents fetched from the network page by page, so that an interruption loses one page at most.

A page is a Parquet file that appears complete or not at all. Its metadata has the state from which fetching
continues after it, so pages and state cannot disagree. Nothing is fetched twice: asking for more documents
only adds pages.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from tqdm import tqdm

from nanogpt.runtime import atomic
from nanogpt.runtime.errors import UserError

STATE, CHECKSUM = b"nanogpt", b"nanogpt.sha256"  # Parquet's checksums cover the texts only


class Pages:
    """The pages of one folder, in order.

    `documents` is the number of documents in all of them, `states` has the state of each page. Raises UserError
    where a page is damaged.
    """

    def __init__(self, folder: Path):
        self.folder, self.documents, self.states = folder, 0, []
        while (path := self._path(len(self.states))).exists():
            rows, state = _read_metadata(path)
            self.documents += rows
            self.states.append(state)

    def append(self, texts: list[str], state: dict) -> None:
        """Write one more page; `state` is of JSON values. Raises UserError where it cannot be written."""
        import pyarrow  # slow to import, and the built-in corpora do not need it
        import pyarrow.parquet

        encoded_state = json.dumps(state)
        metadata = {STATE: encoded_state, CHECKSUM: hashlib.sha256(encoded_state.encode()).hexdigest()}
        schema = pyarrow.schema([("text", pyarrow.large_string())], metadata=metadata)
        table = pyarrow.table([pyarrow.array(texts, pyarrow.large_string())], schema=schema)
        sink = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(table, sink, compression="zstd", write_page_checksum=True)
        path = self._path(len(self.states))
        if path.exists():
            raise UserError(
                f"{path}: appeared meanwhile; wait for the other run that fetches the same, then run this one again "
                f"(or delete the folder {self.folder} if there is none)"
            )
        try:
            atomic.write_bytes(path, sink.getvalue())
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

    def texts(self) -> Iterator[str]:
        """Yield the documents of all pages, one page in memory at a time. Raises UserError where a page is damaged."""
        import pyarrow
        import pyarrow.parquet

        for path in map(self._path, range(len(self.states))):
            try:
                with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
                    texts = file.read(["text"]).column("text").to_pylist()
                    if len(texts) != file.metadata.num_rows:
                        raise OSError("documents are missing")
            except (pyarrow.ArrowException, OSError, LookupError, UnicodeDecodeError) as error:
                raise _damage_error(path, error) from None
            yield from texts

    def _is_complete(self, wanted: int | None) -> bool:
        ended = bool(self.states) and self.states[-1].get("end", False)
        return ended or (wanted is not None and self.documents >= wanted)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06}.parquet"


def _read_metadata(path: Path) -> tuple[int, dict]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            metadata = file.schema_arrow.metadata
            encoded_state = metadata[STATE]
            if metadata[CHECKSUM].decode() != hashlib.sha256(encoded_state).hexdigest():
                raise OSError("its checksum is wrong")
            return file.metadata.num_rows, json.loads(encoded_state)
    except (pyarrow.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
        raise _damage_error(path, error) from None


def _damage_error(path: Path, error: Exception) -> UserError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return UserError(f"{path}: damaged ({reason}); delete the folder {path.parent} and fetch again")
