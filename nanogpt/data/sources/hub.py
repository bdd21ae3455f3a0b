"""Fetches data sets of the Hugging Face hub as a stream: as many documents as requested and no more.

Only data files (Parquet, JSON lines, CSV, text) are read; no code of a repository ever runs. Of one
field, the text is taken as it is. Several fields, like title and abstract, are each put on one line and
joined by an empty one. With `format: chat` the fields are those of a conversation: [prompt, completion] or [messages].

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
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

from nanogpt.data.sources.chats import conversations
from nanogpt.data.sources.document import Corpus, DataSettings
from nanogpt.data.sources.pages import Pages
from nanogpt.data.sources.records import BadRecord
from nanogpt.runtime.errors import BadSetting, UserError, shorten
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
    chat = settings.format == "chat"
    if chat and dataset.fields not in (["prompt", "completion"], ["messages"]):
        remedy = "choose [prompt, completion] or [messages]"
        raise BadSetting(f"data.{settings.source}.fields", dataset.fields, "not those of a conversation", remedy)
    pages = Pages(work_folder("corpora", settings.source, asdict(dataset) | ({"format": "chat"} if chat else {})))
    pages.fetch(settings.num_samples, lambda states: _fetch_pages(dataset, settings.source, pages, chat))
    if not pages.documents:
        reason = f"no text in it in split {dataset.split} of {dataset.repo}"
        raise BadSetting(f"data.{settings.source}.fields", dataset.fields, reason, "name the field that holds the text")
    state = pages.states[-1]
    documents = partial(pages.read_documents, settings.num_samples)
    return Corpus(dataset.repo, state["licence"], documents, revision=state["revision"], chat=chat)


def _fetch_pages(dataset: HubSettings, source: str, pages: Pages, chat: bool) -> Iterator[tuple[list[str], dict]]:
    """Yield the pages after those that exist. The state of each says where the next begins."""
    with _translate_errors(dataset, source, pages):
        _configure_libraries(dataset)
        state = pages.states[-1] if pages.states else _initial_state(dataset)
        texts, skipped = list[str](), Counter[str]()
        for record, position in _read_records(dataset, state["revision"], state["position"], chat):
            for text in _texts_of(record, dataset, chat):
                if isinstance(text, str):
                    texts.append(text)
                else:
                    skipped[text.reason] += 1
            if len(texts) >= PAGE:
                yield texts, state | {"position": position, "skipped": skipped}
                texts, skipped = [], Counter()
        yield texts, state | {"skipped": skipped, "end": True}


def _initial_state(dataset: HubSettings) -> dict:
    """The state before the first page: the commit that the revision names now, the licence that its card names."""
    import huggingface_hub

    info = huggingface_hub.HfApi().dataset_info(dataset.repo, revision=dataset.revision)
    licence = (info.card_data or {}).get("license") or f"see https://huggingface.co/datasets/{dataset.repo}"
    if isinstance(licence, list):
        licence = ", ".join(licence)
    return {"revision": info.sha, "licence": licence, "position": [0, 0]}


def _texts_of(record: dict, dataset: HubSettings, chat: bool) -> Iterator[str | BadRecord]:
    if chat:
        yield from conversations(dataset.repo, {field: record.get(field) for field in dataset.fields})
    else:
        yield _join_fields([record.get(field) for field in dataset.fields]) or BadRecord("no text", dataset.repo)


def _join_fields(values: list) -> str:
    """One text of a record's values; of several, those that hold text."""
    texts = [value for value in values if isinstance(value, str)]
    if len(values) == 1:
        return "".join(texts).strip()
    lines = (" ".join(text.split()) for text in texts)
    return "\n\n".join(line for line in lines if line)


def _read_records(
    dataset: HubSettings, commit: str, position: list[int], chat: bool
) -> Iterator[tuple[dict, list[int]]]:
    """The records from a position [file, row] on, each with the position after it."""
    import datasets

    with tempfile.TemporaryDirectory() as cache:  # an empty one: no older copy stands in for the commit
        builder = datasets.load_dataset_builder(dataset.repo, revision=commit, cache_dir=cache)
        urls = builder.config.data_files
        if dataset.split not in urls:
            reason = f"no such split in {dataset.repo}, there is {', '.join(urls)}"
            raise BadSetting("split", dataset.split, reason, "choose one of these")
        if all(url.endswith(".parquet") for url in urls[dataset.split]):
            files = [partial(_read_parquet, dataset, url, chat) for url in urls[dataset.split]]
        else:
            stream = builder.as_streaming_dataset(split=dataset.split)
            if stream.features:
                kinds = {name: getattr(kind, "dtype", type(kind).__name__) for name, kind in stream.features.items()}
                _check_fields(dataset, kinds, chat)
            files = [stream.shard(stream.num_shards, number).skip for number in range(stream.num_shards)]
    number, row = position
    for records_from in files[number:]:
        for record in records_from(row):
            row += 1
            yield record, [number, row]
        number, row = number + 1, 0


def _read_parquet(dataset: HubSettings, url: str, chat: bool, row: int) -> Iterator[dict]:
    """The rows of a file from `row` on; row groups before it are not fetched."""
    import huggingface_hub
    import pyarrow.parquet

    # Large row groups are read piece by piece, columns in turn: some blocks of 5 MB serve them all.
    options = {"cache_type": "blockcache", "cache_options": {"maxblocks": 8}}
    with huggingface_hub.HfFileSystem().open(url, **options) as file:
        parquet = pyarrow.parquet.ParquetFile(
            file, buffer_size=BUFFER, pre_buffer=False, page_checksum_verification=True
        )
        _check_fields(dataset, {field.name: str(field.type) for field in parquet.schema_arrow}, chat)
        group = 0
        while group < parquet.num_row_groups and row >= (rows := parquet.metadata.row_group(group).num_rows):
            group, row = group + 1, row - rows
        groups = range(group, parquet.num_row_groups)
        for batch in parquet.iter_batches(ROWS, groups, dataset.fields, use_threads=False):
            yield from batch.slice(row).to_pylist()
            row = max(0, row - len(batch))


def _check_fields(dataset: HubSettings, kinds: dict[str, str], chat: bool) -> None:
    for field in dataset.fields:
        if field not in kinds or (not chat and kinds[field] not in TEXT):
            there = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
            reason = f"no text in {field!r} of {dataset.repo}, there is {there}"
            raise BadSetting("fields", dataset.fields, reason, "name fields of text")


@contextlib.contextmanager
def _translate_errors(dataset: HubSettings, source: str, pages: Pages) -> Iterator[None]:
    """Raise UserError in place of any exception of the libraries, and name the section of a bad setting."""
    try:
        yield
    except Exception as error:  # the libraries raise what they like: KeyError, ValueError, EOFError
        explained = _explain(error, dataset, pages)
        raise explained.inside(f"data.{source}") if isinstance(explained, BadSetting) else explained from None


def _explain(error: Exception, dataset: HubSettings, pages: Pages) -> UserError:
    from huggingface_hub import errors

    if isinstance(error.__cause__, errors.HfHubHTTPError):
        error = error.__cause__
    repo, login = dataset.repo, "log in with `hf auth login`"
    match error:
        case UserError():
            return error
        case errors.GatedRepoError():
            remedy = f"ask for it at https://huggingface.co/datasets/{repo}, then {login}"
            return BadSetting("repo", repo, "access is restricted", remedy)
        case errors.RepositoryNotFoundError() | errors.HFValidationError():
            return BadSetting(
                "repo", repo, "no such data set on the hub, or a private one", f"choose another, or {login}"
            )
        case errors.RevisionNotFoundError() if pages.states:
            return UserError(
                f"{repo}: the commit {pages.states[-1]['revision']} is gone, from which {pages.documents} documents "
                f"were fetched; delete the folder {pages.folder} to fetch {dataset.revision} afresh"
            )
        case errors.RevisionNotFoundError():
            return BadSetting("revision", dataset.revision, f"not in {repo}", "choose a branch, tag or commit")
        case errors.HfHubHTTPError() if error.response.status_code in (401, 403):
            return BadSetting("repo", repo, f"the hub refuses ({shorten(error, 200)})", login)
    reason = f"cannot be read ({type(error).__name__}: {shorten(error, 200)})"
    return BadSetting("repo", repo, reason, f"{AGAIN}; if that does not help, choose another revision or repo")


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
    """A client that repeats a request until the answer is complete and valid, for PATIENCE times the timeout at most.

    The libraries' own retries take up to half an hour, and never end for some requests.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import httpx

    client = httpx.Client(follow_redirects=True)
    send, failing_since = client.send, None
    timeout_s = constants.HF_HUB_DOWNLOAD_TIMEOUT

    def send_until_valid(request: "httpx.Request", *, stream: bool = False, **how) -> "httpx.Response":
        """Return the answer with its body, also where a stream is requested, so that a truncated one is retried."""
        nonlocal failing_since
        request.extensions["timeout"] = httpx.Timeout(timeout_s).as_dict()
        for pause_s in itertools.chain(PAUSES_S, itertools.repeat(PAUSES_S[-1])):
            began = time.monotonic()
            try:
                response = send(request, **how)
                trouble = _response_fault(request, response)
                if not trouble:
                    failing_since = None
                    return response
                if asked_s := _requested_pause_s(response):
                    trouble += f" and asks to wait {asked_s} s"
                    pause_s = max(pause_s, asked_s)
            except httpx.RequestError as error:
                trouble = f"no answer from {request.url.host} ({shorten(error, 200) or type(error).__name__})"
            failing_since = failing_since or began
            failing_s = time.monotonic() - failing_since
            if failing_s + pause_s > PATIENCE * timeout_s:
                # Not a kind of error after which the libraries try again themselves.
                raise UserError(f"{trouble}, after {failing_s:.0f} s of trying; check the network and {AGAIN}")
            time.sleep(pause_s)

    client.send = send_until_valid
    return client


def _response_fault(request: "httpx.Request", response: "httpx.Response") -> str:
    """Describe the fault of an answer that another try may not have; an empty string if there is none."""
    host = response.url.host
    if response.status_code in TEMPORARY:
        return f"{host} answers {response.status_code} {response.reason_phrase}"
    asked = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("range", ""))
    if asked and response.is_success:
        first, last = map(int, asked.groups())
        length = len(response.content)
        whole = f"bytes 0-{length - 1}/{length}"  # of a file sent whole, which serves where it is not longer
        sent = response.headers.get("content-range", whole)
        end = min(last, int(sent.rpartition("/")[2]) - 1)
        if not sent.startswith(f"bytes {first}-{end}/") or length != end - first + 1:
            return f"{host} does not send the part of a file that was asked for"
    return ""


def _requested_pause_s(response: "httpx.Response") -> int:
    """The seconds for which a busy server asks to wait, 0 where it does not say."""
    from huggingface_hub.utils import parse_ratelimit_headers

    limit = parse_ratelimit_headers(response.headers)
    said = limit.reset_in_seconds if limit and not limit.remaining else 0
    after = response.headers.get("retry-after", "")
    return int(after) if after.isdecimal() else said
