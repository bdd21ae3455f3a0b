"""Tiny Shakespeare, the text of the well-known character benchmark: a checked download of 1.1 MB."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from nanogpt.data.sources.document import Corpus, DataSettings, Document
from nanogpt.runtime.errors import UserError, shorten
from nanogpt.runtime.ranges import CheckedSettings, Require
from nanogpt.runtime.workdir import work_folder

SIZE = 1_115_394  # bytes
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
FILE = "input.txt"
RETRIES = 2
CHUNK = 1 << 16
TIMEOUT_S = 20.0  # for a connection, and between two pieces of the answer
URL = Require(
    lambda url: re.fullmatch(r"https?://\S+", url), "not a web address", "take it back with `git checkout params.yaml`"
)


@dataclass(frozen=True)
class ShakespeareSettings(CheckedSettings):
    """Section `data.shakespeare` of params.yaml."""

    url: Annotated[str, URL]


def load(settings: DataSettings, options: ShakespeareSettings) -> Corpus:
    """Return the whole text as two documents, one for each split; `num_samples` is ignored.

    The first 90% of the characters are for training, as in char-rnn and nanoGPT, so losses can be
    compared with theirs. The file is fetched once, or put there by hand.
    Raises UserError where neither works.
    """
    text = _fetch(options.url).read_bytes().decode()
    cut = int(0.9 * len(text))

    def documents(skipped: Counter[str]) -> Iterator[Document]:
        yield Document(text[:cut], split="train")
        yield Document(text[cut:], split="val")

    return Corpus("Tiny Shakespeare", "public domain", documents, revision=f"sha256:{SHA256}", tokenizer="char")


def _fetch(url: str) -> Path:
    import pooch  # slow to import, and few corpora need it

    folder = work_folder("corpora", "shakespeare", {"sha256": SHA256})
    pooch.get_logger().setLevel("ERROR")
    known = {"registry": {FILE: f"sha256:{SHA256}"}, "urls": {FILE: url}}
    store = pooch.create(folder, base_url="", retry_if_failed=RETRIES, **known)
    try:
        return Path(store.fetch(FILE, downloader=_download))
    except (OSError, ValueError) as error:  # what requests raises is an OSError
        path = folder / FILE
        there = ", where another or a damaged one lies now" if path.exists() else ""
        raise UserError(
            f"{url}: {shorten(error, 300)}; check the network and run again, or set data.shakespeare.url"
            f" to another copy, or put the file ({SIZE} bytes, SHA-256 {SHA256}) at {path}{there}"
        ) from None


def _download(url: str, path: str, store: object) -> None:
    """Write what `url` answers to `path`. Raises ValueError as soon as it is too long to be the file."""
    import requests

    with requests.get(url, stream=True, timeout=TIMEOUT_S) as response, open(path, "wb") as file:
        response.raise_for_status()
        for chunk in response.iter_content(CHUNK):
            file.write(chunk)
            if file.tell() > SIZE:
                raise ValueError(f"another file: more than the {SIZE} bytes expected")
