"""The hub's clients are the real ones, in processes of their own; the hub is one on the loopback address."""

import gzip
import io
import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hub_server import Hub
from imports import ROOT
from loopback import Server

from nanogpt.data.sources.pages import Pages

CARD = b"---\nlicense: cdla-sharing-1.0\n---\n# Stories\n"
STORIES = "data/train-00000-of-00001.parquet"
ABSTRACTS = "arxiv-abstracts.jsonl.gz"
DATA = r"\.parquet|\.jsonl|/blobs/"

# Loads what each line of its input asks for, with less patience than usual.
CLIENT = """
import dataclasses, json, os, sys, traceback
from collections import Counter
from nanogpt.data.sources import hub
from nanogpt.data.sources.document import DataSettings
from nanogpt.runtime.errors import UserError

for line in sys.stdin:
    job = json.loads(line)
    os.chdir(job["folder"])
    hub.PATIENCE, hub.PAUSES_S = job["patience"], (0.1, 0.2)
    try:
        settings = DataSettings("tinystories", job["num_samples"], 0.1, "", "", "", job["own"].pop("format", "text"))
        loaded = hub.load(settings, hub.HubSettings(**job["own"]))
        skipped = Counter()
        answer = {"texts": [document.text for document in loaded.documents(skipped)], "skipped": skipped}
        answer |= {"name": loaded.name, "licence": loaded.licence, "revision": loaded.revision}
    except UserError as error:
        answer = {"error": str(error)}
    except BaseException:
        answer = {"crash": traceback.format_exc()}
    print(json.dumps(answer), flush=True)
"""


def parquet(texts: list, group: int = 1000, **more: list) -> bytes:
    sink = io.BytesIO()
    columns = {"text": pyarrow.array(texts, pyarrow.string())} | more
    pyarrow.parquet.write_table(pyarrow.table(columns), sink, row_group_size=group, compression="snappy")
    return sink.getvalue()


def json_lines(records: list[dict]) -> bytes:
    return gzip.compress("".join(json.dumps(record) + "\n" for record in records).encode(), 1)


def stories(count: int) -> list[str]:
    return [f"Story {number}.\n\nIt ends." for number in range(count)]


def abstracts(count: int) -> list[dict]:
    return [
        {"id": f"{n:06}", "title": f"Title {n}\n  goes on", "abstract": f"  We  show\n{n}.\n", "categories": ["cs.CL"]}
        for n in range(count)
    ]


def joined(count: int) -> list[str]:
    return [f"Title {number} goes on\n\nWe show {number}." for number in range(count)]


def environment(endpoint: str, home: Path, **more: str) -> dict[str, str]:
    """Of a process that talks to `endpoint` only and shares no cache; two seconds without an answer are too long."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "DVC_"))}
    env |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DOWNLOAD_TIMEOUT": "2", "OMP_NUM_THREADS": "1"}
    return env | {"PYTHONPATH": str(ROOT)} | more


def start_client(endpoint: str, home: Path) -> subprocess.Popen:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", CLIENT], env=environment(endpoint, home), **pipes)


def job_of(repo: str, num_samples: int | None, folder: Path, own: dict, patience: float = 3) -> str:
    """A line of input to the client."""
    own = {"repo": repo, "revision": "main", "split": "train", "fields": ["text"]} | own
    return json.dumps({"folder": str(folder), "num_samples": num_samples, "own": own, "patience": patience}) + "\n"


@pytest.fixture(scope="module")
def hub() -> Hub:
    return Hub()


@pytest.fixture(scope="module")
def running(hub):
    with hub.serve() as server:
        yield server


@pytest.fixture
def server(running) -> Server:
    running.heal()
    running.requests.clear()
    return running


@pytest.fixture(scope="module")
def client(running, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    with start_client(running.url, home) as process:
        yield process
        process.stdin.close()


@pytest.fixture
def answer(client, server, tmp_path):
    """What comes of loading a repository."""

    def ask(repo: str, num_samples: int | None = None, folder: Path = tmp_path, patience: float = 3, **own) -> dict:
        folder.mkdir(exist_ok=True)
        client.stdin.write(job_of(repo, num_samples, folder, own, patience))
        client.stdin.flush()
        return json.loads(client.stdout.readline())

    return ask


@pytest.fixture
def load(answer):
    """Load a repository: `load("someone/stories", 10)["texts"]`."""

    def ask(*asked, **own) -> dict:
        given = answer(*asked, **own)
        assert "texts" in given, given
        return given

    return ask


@pytest.fixture
def fail(answer):
    """The message that loading a repository ends with: `fail("someone/stories", 10)`, after fewer tries."""

    def ask(repo: str, *asked, **own) -> str:
        given = answer(repo, *asked, patience=0.2, **own)
        assert "error" in given, given
        assert "\n" not in given["error"]
        return given["error"]

    return ask


@pytest.fixture
def repo(request) -> str:
    """A name that no other test has, so that nothing is remembered of it."""
    return f"someone/{request.node.name.partition('[')[0].removeprefix('test_')[:50]}-{next(NUMBERS)}"


NUMBERS = itertools.count()


def ranges(server: Server) -> list[tuple[int, int]]:
    """The parts of data files that were served."""
    asked = [request.headers["range"] for request in server.requests if "/blobs/" in request.path]
    return [tuple(map(int, part.removeprefix("bytes=").split("-"))) for part in asked]


def kept(folder: Path) -> list[str]:
    """The documents in the pages below a folder."""
    folders = map(Pages, folder.glob(".work/corpora/*"))
    return [document.text for pages in folders for document in pages.read_documents(None, Counter())]
