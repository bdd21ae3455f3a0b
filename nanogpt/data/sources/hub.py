"""Fetches data sets of the Hugging Face hub as a stream: as many documents as requested and no more.

Only data files (Parquet, JSON lines, CSV, text) are read; no code of a repository ever runs. Of one
field, the text is taken as it is. Several fields, like title and abstract, are each put on one line and
joined by an empty one.

`datasets` finds the files of a split and reads all but Parquet. That is read here, a row group at a time
and in this thread: the threads by which `datasets` reads it outlive an early end and abort the process or
hang it, cannot be interrupted, and fetch 32 MB for the first row.
"""

import contextlib
import itertools
import logging
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

from nanogpt.data.sources.document import Corpus, DataSettings, Document
from nanogpt.data.sources.pages import Pages
from nanogpt.runtime.errors import UserError, shorten
from nanogpt.runtime.ranges import CheckedSettings, Require
from nanogpt.runtime.workdir import work_folder

if TYPE_CHECKING:
    from huggingface_hub.utils import httpx

PAGE = 5000  # documents: some 5 MB
ROWS = 1000  # of Parquet at once
BUFFER = 2**20  # bytes of a column at once
PATIENCE = 6  # times HF_HUB_DOWNLOAD_TIMEOUT (10 s) without a good answer: a minute
PAUSES_S = (1, 2, 4, 8)  # between two tries; the last one again and again
TEMPORARY = (408, 429, 500, 502, 503, 504)
TEXT = ("string", "large_string", "string_view", "null", "Json")
AGAIN = "run the same command again: what was fetched is kept"


@dataclass(frozen=True)
class HubSettings(CheckedSettings):
    """Section `data.tinystories` or `data.scientific_papers` of params.yaml."""

    repo: str
    revision: str
    split: str
    fields: Annotated[list[str], Require(len, "no field to take the text from", "name one or more, like [text]")]


def load(settings: DataSettings, dataset: HubSettings) -> Corpus:
    """Fetch what is missing of the documents of a split, in the order of its files.

    The commit of the first page is that of all later ones. Raises UserError for a data set,
    revision, split or field that does not exist or is not open, for damaged files, and where the hub
    gives no good answer for a minute.
    """
    pages = Pages(work_folder("corpora", settings.source, asdict(dataset)))
    pages.fetch(settings.num_samples, lambda states: _fetch_pages(dataset, settings.source, pages))
    if not pages.documents:
        raise UserError(
            f"{dataset.repo}: no text in {', '.join(dataset.fields)} of split {dataset.split}; "
            f"set data.{settings.source}.fields to the field that holds the text"
        )
    wanted = min(settings.num_samples or pages.documents, pages.documents)
    state = next(state for state in pages.states if state["documents"] >= wanted)

    def documents(skipped: Counter[str]) -> Iterator[Document]:
        if state["skipped"]:
            skipped["no text"] += state["skipped"]
        yield from map(Document, itertools.islice(pages.texts(), wanted))

    return Corpus(dataset.repo, state["licence"], documents, revision=state["revision"])


def _fetch_pages(dataset: HubSettings, source: str, pages: Pages) -> Iterator[tuple[list[str], dict]]:
    """Yield the pages after those that exist. The state of each says where the next begins."""
    with _translate_errors(dataset, source, pages):
        _configure_libraries(dataset)
        state = dict(pages.states[-1]) if pages.states else _initial_state(dataset)
        texts: list[str] = []
        for record, position in _records(dataset, source, state["revision"], state["position"]):
            state["position"] = position
            if text := _join_fields([record.get(field) for field in dataset.fields]):
                texts.append(text)
            else:
                state["skipped"] += 1
            if len(texts) == PAGE:
                yield texts, state | {"documents": pages.documents + PAGE}
                texts = []
        yield texts, state | {"documents": pages.documents + len(texts), "end": True}


def _initial_state(dataset: HubSettings) -> dict:
    """The state before the first page: the commit that the revision names now, the licence that its card names."""
    import huggingface_hub

    info = huggingface_hub.HfApi().dataset_info(dataset.repo, revision=dataset.revision)
    licence = (info.card_data or {}).get("license")
    if isinstance(licence, list):
        licence = ", ".join(licence)
    licence = licence or f"see https://huggingface.co/datasets/{dataset.repo}"
    return {"revision": info.sha, "licence": licence, "position": [0, 0], "skipped": 0}


def _join_fields(values: list) -> str:
    """One text of a record's values; of several, those that hold text."""
    texts = [value for value in values if isinstance(value, str)]
    if len(values) == 1:
        return "".join(texts).strip()
    lines = (" ".join(text.split()) for text in texts)
    return "\n\n".join(line for line in lines if line)


def _records(dataset: HubSettings, source: str, commit: str, position: list[int]) -> Iterator[tuple[dict, list[int]]]:
    """The records from a position [file, row] on, each with the position after it."""
    import datasets

    with tempfile.TemporaryDirectory() as cache:  # an empty one: no older copy stands in for the commit
        builder = datasets.load_dataset_builder(dataset.repo, revision=commit, cache_dir=cache)
        urls = builder.config.data_files
        if dataset.split not in urls:
            raise UserError(
                f"{dataset.repo}: no split {dataset.split!r}, there is {', '.join(urls)}; set data.{source}.split"
            )
        if all(url.endswith(".parquet") for url in urls[dataset.split]):
            files = [partial(_parquet, dataset, source, url) for url in urls[dataset.split]]
        else:
            stream = builder.as_streaming_dataset(split=dataset.split)
            if stream.features:
                kinds = {name: getattr(kind, "dtype", type(kind).__name__) for name, kind in stream.features.items()}
                _check_fields(kinds, dataset, source)
            files = [stream.shard(stream.num_shards, number).skip for number in range(stream.num_shards)]
    number, row = position
    for records_from in files[number:]:
        for record in records_from(row):
            row += 1
            yield record, [number, row]
        number, row = number + 1, 0


def _parquet(dataset: HubSettings, source: str, url: str, row: int) -> Iterator[dict]:
    """The rows of a file from `row` on; row groups before it are not fetched."""
    import huggingface_hub
    import pyarrow.parquet

    # Large row groups are read piece by piece, columns in turn: some blocks of 5 MB serve them all.
    options = {"cache_type": "blockcache", "cache_options": {"maxblocks": 8}}
    with huggingface_hub.HfFileSystem().open(url, **options) as file:
        try:
            parquet = pyarrow.parquet.ParquetFile(
                file, buffer_size=BUFFER, pre_buffer=False, page_checksum_verification=True
            )
            _check_fields({field.name: str(field.type) for field in parquet.schema_arrow}, dataset, source)
            group = 0
            while group < parquet.num_row_groups and row >= (rows := parquet.metadata.row_group(group).num_rows):
                group, row = group + 1, row - rows
            groups = range(group, parquet.num_row_groups)
            for batch in parquet.iter_batches(ROWS, groups, dataset.fields, use_threads=False):
                yield from batch.slice(row).to_pylist()
                row = max(0, row - len(batch))
        except huggingface_hub.errors.HfHubHTTPError:
            raise
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise UserError(
                _unreadable(f"{dataset.repo}: {url.rpartition('@')[2].partition('/')[2]}", error, source)
            ) from None


def _check_fields(kinds: dict[str, str], dataset: HubSettings, source: str) -> None:
    for field in dataset.fields:
        there = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
        if field not in kinds:
            raise UserError(f"{dataset.repo}: no field {field!r}, there is {there}; set data.{source}.fields")
        if kinds[field] not in TEXT:
            raise UserError(
                f"{dataset.repo}: the field {field!r} is not text, there is {there}; set data.{source}.fields"
            )


@contextlib.contextmanager
def _translate_errors(dataset: HubSettings, source: str, pages: Pages) -> Iterator[None]:
    """Raise UserError in place of any exception of the libraries."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the libraries raise what they like: KeyError, ValueError, EOFError
        raise UserError(_reason(error, dataset, source, pages)) from None


def _reason(error: Exception, dataset: HubSettings, source: str, pages: Pages) -> str:
    from huggingface_hub import errors

    if isinstance(error.__cause__, errors.HfHubHTTPError):
        error = error.__cause__
    page = f"https://huggingface.co/datasets/{dataset.repo}"
    match error:
        case NoAnswerError():
            return f"{dataset.repo}: {error}; check the network and {AGAIN}"
        case errors.GatedRepoError():
            return f"{dataset.repo}: access is restricted; ask for it at {page}, then log in with `hf auth login`"
        case errors.RepositoryNotFoundError() | errors.HFValidationError():
            return (
                f"{dataset.repo}: no such data set on the hub, or a private one; set data.{source}.repo, or log in "
                "with `hf auth login`"
            )
        case errors.RevisionNotFoundError() if pages.states:
            return (
                f"{dataset.repo}: the commit {pages.states[-1]['revision']} is gone, from which {pages.documents} "
                f"documents were fetched; delete the folder {pages.folder} to fetch {dataset.revision} afresh"
            )
        case errors.RevisionNotFoundError():
            remedy = f"set data.{source}.revision to a branch, tag or commit"
            return f"{dataset.repo}: no revision {dataset.revision!r}; {remedy}"
        case errors.HfHubHTTPError() if error.response.status_code in (401, 403):
            return f"{dataset.repo}: the hub refuses ({shorten(error, 200)}); log in with `hf auth login`"
    return _unreadable(dataset.repo, error, source)


def _unreadable(what: str, error: Exception, source: str) -> str:
    return (
        f"{what}: cannot be read ({type(error).__name__}: {shorten(error, 200)}); {AGAIN}; if that does not help, "
        f"set data.{source}.revision or data.{source}.repo to another"
    )


def _configure_libraries(dataset: HubSettings) -> None:
    """Silence the libraries' output and bound their waiting. Raises UserError in offline mode."""
    import datasets
    import huggingface_hub

    if datasets.config.HF_HUB_OFFLINE:
        raise UserError(
            f"{dataset.repo}: not all documents are fetched yet, and HF_HUB_OFFLINE is set; unset it, or lower "
            "data.<role>.num_samples"
        )
    for library in (datasets, huggingface_hub.utils):
        library.disable_progress_bars()
        library.logging.set_verbosity(logging.CRITICAL)
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # a request to another host, which need not answer
    huggingface_hub.set_client_factory(_client)


def _client() -> "httpx.Client":
    from huggingface_hub.utils import httpx

    client = httpx.Client(follow_redirects=True)
    client.send = RetryingClient(client.send)
    return client


class NoAnswerError(Exception):
    """No valid answer within the time limit. Not a kind after which the libraries try again themselves."""


class RetryingClient:
    """Repeats a request until the answer is complete and valid, for PATIENCE times the timeout at most.

    The libraries' own retries take up to half an hour, and never end for some requests.
    """

    def __init__(self, send: Callable[..., "httpx.Response"]):
        self.send = send
        self.failing_since: float | None = None

    def __call__(self, request: "httpx.Request", *, stream: bool = False, **how) -> "httpx.Response":
        """Return the answer with its body, also where a stream is requested, so that a truncated one is retried."""
        from huggingface_hub import constants
        from huggingface_hub.utils import httpx

        timeout_s = constants.HF_HUB_DOWNLOAD_TIMEOUT
        request.extensions["timeout"] = httpx.Timeout(timeout_s).as_dict()
        for pause_s in itertools.chain(PAUSES_S, itertools.repeat(PAUSES_S[-1])):
            began = time.monotonic()
            try:
                response = self.send(request, **how)
                trouble = _response_fault(request, response)
                if not trouble:
                    self.failing_since = None
                    return response
                if asked_s := _requested_pause_s(response):
                    trouble += f" and asks to wait {asked_s} s"
                    pause_s = max(pause_s, asked_s)
            except httpx.TimeoutException:
                trouble = f"no answer from {request.url.host} within {timeout_s} s"
            except httpx.RequestError as error:
                trouble = f"no answer from {request.url.host} ({shorten(error, 200)})"
            self.failing_since = self.failing_since or began
            failing_s = time.monotonic() - self.failing_since
            if failing_s + pause_s > PATIENCE * timeout_s:
                raise NoAnswerError(f"{trouble}, after {failing_s:.0f} s of trying")
            time.sleep(pause_s)


def _response_fault(request: "httpx.Request", response: "httpx.Response") -> str:
    """Describe the fault of an answer that another try may not have; an empty string if there is none."""
    from huggingface_hub import constants

    host = response.url.host
    if response.status_code in TEMPORARY:
        return f"{host} answers {response.status_code} {response.reason_phrase}"
    if response.is_success and str(request.url).startswith(f"{constants.ENDPOINT}/api/"):
        try:
            response.json()
        except ValueError:
            return f"{host} does not answer as a hub does (is there a login page in between?)"
    asked = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("range", ""))
    if asked and response.is_success:
        first, last = map(int, asked.groups())
        length = len(response.content)
        whole = f"bytes 0-{length - 1}/{length}"  # of a file sent whole, which serves where it is not longer
        sent = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("content-range", whole))
        start, end, size = map(int, sent.groups()) if sent else (0, -1, 0)
        if (start, end) != (first, min(last, size - 1)) or length != end - start + 1:
            return f"{host} does not send the part of a file that was asked for"
    return ""


def _requested_pause_s(response: "httpx.Response") -> int:
    """The seconds for which a busy server asks to wait, 0 where it does not say."""
    from huggingface_hub.utils import parse_ratelimit_headers

    after, limit = response.headers.get("retry-after", ""), parse_ratelimit_headers(response.headers)
    if after.isdecimal():
        return int(after)
    return limit.reset_in_seconds if limit and not limit.remaining else 0
