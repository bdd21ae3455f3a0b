"""Encodes a large corpus in shards, each complete or not there at all, in `.work` until its bins are written.

So an interrupted call goes on where it was, and several processes, or hosts that share the folder, encode one corpus
together: each takes shards that no other one holds.
"""

import contextlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from nanogpt.data.prepare.encode import DOCUMENT, Encoded, encode_documents, token_dtype
from nanogpt.data.sources.document import Corpus, Documents
from nanogpt.data.tokens.bins import DTYPES
from nanogpt.data.tokens.tokenizer import Tokenizer
from nanogpt.runtime import atomic, locks
from nanogpt.runtime.fingerprint import fingerprint_program
from nanogpt.runtime.workdir import work_folder

WAIT_SECONDS = 1.0  # between two looks at a shard that another process encodes
TOKENS, DOCUMENTS, SKIPPED = "tokens.npy", "documents.npy", "skipped.json"


def open_shards(corpus: Corpus, tokenizer: Tokenizer) -> "Shards | None":
    """The shards of a corpus in the tokens of `tokenizer`; None where it has one part alone."""
    parts = corpus.parts()
    return Shards(parts, corpus.identity, tokenizer) if len(parts) > 1 else None


class Shards:
    """The shards of a corpus, one for each of its `parts`."""

    def __init__(self, parts: Sequence[Documents], identity: dict, tokenizer: Tokenizer):
        self.parts, self.tokenizer = parts, tokenizer
        identity = {"text": identity, "tokenizer": tokenizer.sha256}
        self.folder = work_folder("prepare", "shards", identity | fingerprint_program(("numpy", "tiktoken")))

    def encode(self) -> int:
        """Encode the parts that no process has encoded or encodes now; return how many."""
        return sum(self._encode(number) for number in range(len(self.parts)))

    def read(self, skipped: Counter[str]) -> Iterator[Encoded]:
        """Yield all shards in order, and encode the next ones meanwhile; add to `skipped` what they could not use."""
        with ThreadPoolExecutor(1) as ahead:
            coming = ahead.submit(self._wait, 0)
            for number in range(len(self.parts)):
                path = coming.result()
                if number + 1 < len(self.parts):
                    coming = ahead.submit(self._wait, number + 1)
                skipped.update(json.loads((path / SKIPPED).read_text("utf-8")))
                yield Encoded(np.load(path / TOKENS, mmap_mode="r"), np.load(path / DOCUMENTS))

    def remove(self) -> None:
        """Delete the shards, whose tokens are in the bins."""
        shutil.rmtree(self.folder)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06}"

    def _wait(self, number: int) -> Path:
        while not self._encode(number) and not self._path(number).exists():
            time.sleep(WAIT_SECONDS)
            self.folder.mkdir(parents=True, exist_ok=True)  # where the same command elsewhere has removed it
        return self._path(number)

    def _encode(self, number: int) -> bool:
        """Encode a part and return True, unless it is encoded or a process encodes it."""
        path = self._path(number)
        with contextlib.ExitStack() as stack:
            try:
                lock = stack.enter_context(path.with_suffix(".lock").open("a"))
            except FileNotFoundError:  # another process has written the bins, and removed the shards
                return False
            if path.exists() or not locks.try_lock(lock) or path.exists():
                return False
            skipped: Counter[str] = Counter()
            none = Encoded(np.empty(0, DTYPES[token_dtype(self.tokenizer)]), np.empty(0, DOCUMENT))  # it may be blank
            encoded = none, *encode_documents(self.parts[number](skipped), self.tokenizer, chat=False)
            tokens, documents = (np.concatenate(arrays) for arrays in zip(*encoded, strict=True))
            with atomic.replace_folder(path, DOCUMENTS) as folder:
                np.save(folder / TOKENS, tokens)
                np.save(folder / DOCUMENTS, documents)
                (folder / SKIPPED).write_text(json.dumps(skipped), "utf-8")
            return True
