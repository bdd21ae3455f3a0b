"""The hub's clients are the real ones, in processes of their own; the hub is one on the loopback address."""

import gzip
import io
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hub_server import Hub
from imports import ROOT
from loopback import Response, Server, wait_until

from nanogpt.corpus.hub import PAGE, HubSettings
from nanogpt.corpus.pages import Pages
from nanogpt.errors import BadSetting

CARD = b"---\nlicense: cdla-sharing-1.0\n---\n# Stories\n"
STORIES = "data/train-00000-of-00001.parquet"
ABSTRACTS = "arxiv-abstracts.jsonl.gz"
DATA = r"\.parquet|\.jsonl|/blobs/"

# Loads what each line of its input asks for, with less patience than usual.
CLIENT = """
import dataclasses, json, os, sys, traceback
from collections import Counter
from nanogpt.corpus import hub
from nanogpt.corpus.document import DataSettings
from nanogpt.errors import UserError

for line in sys.stdin:
    job = json.loads(line)
    os.chdir(job["folder"])
    hub.PATIENCE, hub.PAUSES_S = job["patience"], (0.1, 0.2)
    try:
        settings = DataSettings("tinystories", job["num_samples"], 0.1, "", "", "")
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
    """Of a process that talks to `endpoint` only and shares no cache; a second without an answer is too long."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "DVC_"))}
    env |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DOWNLOAD_TIMEOUT": "1", "OMP_NUM_THREADS": "1"}
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
        assert given["error"].startswith(f"{repo}: ")
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
    folders = list(folder.glob(".work/corpora/*"))
    return [text for one in folders for text in Pages(one).texts()]


def test_the_split_in_the_order_of_its_files(hub, load, repo):
    texts = stories(7000)
    sha = hub.commit(
        repo,
        {
            "README.md": CARD,
            "TinyStories-other.txt": b"something else\n" * 100,
            "data/train-00001-of-00002.parquet": parquet([*texts[4000:], None, " \n"]),
            "data/train-00000-of-00002.parquet": parquet(["", *texts[:3999], f"\n {texts[3999]}\n"]),
            "data/validation-00000-of-00001.parquet": parquet(["not this"]),
        },
    )
    loaded = load(repo)
    assert loaded["texts"] == texts
    assert loaded["skipped"] == {"no text": 3}
    assert (loaded["name"], loaded["licence"], loaded["revision"]) == (repo, "cdla-sharing-1.0", sha)
    assert load(repo, split="validation")["texts"] == ["not this"]


def test_title_and_abstract_are_a_line_each(hub, load, repo):
    records = [*abstracts(3), {"id": "x", "title": " ", "abstract": "Alone."}, {"id": "y", "abstract": None}]
    hub.commit(repo, {ABSTRACTS: json_lines(records)})
    loaded = load(repo, fields=["title", "abstract"])
    assert loaded["texts"] == [*joined(3), "Alone."]
    assert loaded["skipped"] == {"no text": 1}
    assert loaded["licence"] == f"see https://huggingface.co/datasets/{repo}"


@pytest.mark.parametrize("name", ["stories.csv", "stories.txt", "stories.jsonl", "stories.json"])
def test_other_formats(hub, load, repo, name):
    texts = [f"Story {number}, and so on." for number in range(50)]
    rows = [{"text": text} for text in texts]
    data = {
        "csv": "text\n" + "".join(f'"{text}"\n' for text in texts),
        "txt": "".join(f"{text}\n" for text in texts),
        "jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        "json": json.dumps(rows),
    }
    hub.commit(repo, {name: data[name.partition(".")[2]].encode()})
    assert load(repo)["texts"] == texts


def test_asking_for_more_only_adds(hub, load, server, repo, tmp_path):
    texts = [os.urandom(500).hex() for _ in range(6 * PAGE)]  # 30 MB that do not compress
    sha = hub.commit(repo, {STORIES: parquet(texts)})
    assert load(repo, 10)["texts"] == texts[:10]
    size = len(hub.repos[repo].commits[sha][STORIES])
    assert sum(last - first for first, last in ranges(server)) < 0.6 * size
    assert kept(tmp_path) == texts[:PAGE]

    hub.commit(repo, {STORIES: parquet(["another"])})
    server.requests.clear()
    loaded = load(repo, PAGE + 1)
    assert loaded["texts"] == texts[: PAGE + 1]
    assert loaded["revision"] == sha
    served = sum(last - first for first, last in ranges(server))
    assert 0 < served < 0.6 * size

    server.requests.clear()
    assert load(repo, 20)["texts"] == texts[:20]
    assert load(repo, 2 * PAGE)["texts"] == texts[: 2 * PAGE]
    assert server.requests == []

    assert load(repo)["texts"] == texts
    assert load(repo, 10, folder=tmp_path / "new")["texts"] == ["another"]


def test_a_large_row_group_is_read_piece_by_piece(hub, load, server, repo):
    texts = [os.urandom(500).hex() for _ in range(5 * PAGE)]
    others = pyarrow.array([os.urandom(500).hex() for _ in texts])
    data = parquet(texts, group=len(texts), other=others)
    hub.commit(repo, {STORIES: data})
    assert load(repo, 10, fields=["other", "text"])["texts"][9] == f"{others[9]}\n\n{texts[9]}"
    assert sum(last - first for first, last in ranges(server)) < 0.6 * len(data)


@pytest.mark.parametrize("step", [2, PAGE, PAGE + 1])
def test_each_page_may_be_fetched_by_another_run(hub, load, repo, step):
    count = 3 * PAGE + 7
    rows = [text for text in stories(count) for text in (text, None)]
    shards = [rows[:9000], [], rows[9000:9001], rows[9001:]]
    hub.commit(
        repo, {f"data/train-{n:05}-of-00004.parquet": parquet(shard, group=4000) for n, shard in enumerate(shards)}
    )
    for wanted in range(step, count, PAGE):
        assert load(repo, wanted)["texts"] == stories(wanted)
    loaded = load(repo)
    assert loaded["texts"] == stories(count)
    assert loaded["skipped"] == {"no text": count}
    assert load(repo, PAGE)["skipped"]["no text"] < count


def test_each_page_of_json_lines_may_be_fetched_by_another_run(hub, load, repo):
    records = abstracts(2 * PAGE + 7)
    parts = [records[:3000], records[3000:]]
    hub.commit(repo, {f"part{number}.jsonl.gz": json_lines(part) for number, part in enumerate(parts)})
    for wanted in (2, PAGE + 1, 2 * PAGE, None):
        count = wanted or len(records)
        assert load(repo, wanted, fields=["title", "abstract"])["texts"] == joined(count)


def test_a_data_set_that_ends_with_a_page(hub, load, server, repo, tmp_path):
    hub.commit(repo, {STORIES: parquet(stories(PAGE))})
    assert load(repo, PAGE)["texts"] == stories(PAGE)
    assert load(repo)["texts"] == stories(PAGE)
    server.requests.clear()
    assert load(repo)["texts"] == load(repo, PAGE + 1)["texts"] == stories(PAGE)
    assert server.requests == []
    (folder,) = tmp_path.glob(".work/corpora/*")
    assert [state.get("end") for state in Pages(folder).states] == [None, True]


def test_what_does_not_exist(hub, fail, repo, tmp_path):
    hub.commit(repo, {STORIES: parquet(["one"], n=pyarrow.array([1])), "data/test-00000-of-00001.parquet": b""})
    papers = f"{repo}-papers"
    hub.commit(papers, {ABSTRACTS: json_lines(abstracts(3))})
    empty = f"{repo}-empty"
    hub.commit(empty, {"README.md": CARD})
    for asked, own, *parts in [
        ("someone/else", {}, "no such data set", "set data.tinystories.repo", "hf auth login"),
        ("no repo at all", {}, "no such data set", "set data.tinystories.repo"),
        (repo, {"revision": "old"}, "no revision 'old'", "set data.tinystories.revision"),
        (repo, {"split": "val"}, "no split 'val', there is train, test", "set data.tinystories.split"),
        (repo, {"fields": ["story"]}, "no field 'story', there is text (string), n (int64)", "data.tinystories.fields"),
        (repo, {"fields": ["text", "n"]}, "the field 'n' is not text", "set data.tinystories.fields"),
        (papers, {"fields": ["text"]}, "no field 'text', there is id (string), title (string)", "tinystories.fields"),
        (papers, {"fields": ["categories"]}, "the field 'categories' is not text", "set data.tinystories.fields"),
        (empty, {}, "cannot be read", "data.tinystories.repo"),
    ]:
        error = fail(asked, **own)
        for part in parts:
            assert part in error
    assert kept(tmp_path) == []


@pytest.mark.parametrize(
    ("status", "part"), [(401, "or a private one"), (403, "ask for it at https://huggingface.co/datasets/")]
)
def test_closed(hub, load, fail, repo, status, part):
    hub.commit(repo, {STORIES: parquet(["one"])})
    hub.repos[repo].refused = status
    error = fail(repo)
    assert part in error
    assert "hf auth login" in error
    hub.repos[repo].refused = None
    assert load(repo)["texts"] == ["one"]


def test_a_commit_that_is_gone(hub, load, fail, repo):
    sha = hub.commit(repo, {STORIES: parquet(stories(PAGE + 1))})
    assert load(repo, 2)["texts"] == stories(2)
    hub.commit(repo, {STORIES: parquet(["rewritten"])})
    del hub.repos[repo].commits[sha]
    assert load(repo, PAGE)["texts"] == stories(PAGE)
    error = fail(repo)
    assert f"the commit {sha} is gone, from which {PAGE} documents were fetched; delete the folder" in error


def test_values_that_are_no_text(hub, load, repo):
    rows = [{"text": "one"}, {"text": {"a": 1}}, {"text": 2}, {"text": None}, {"text": "two"}]
    hub.commit(repo, {"mixed.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode()})
    loaded = load(repo)
    assert (loaded["texts"], loaded["skipped"]) == (["one", "two"], {"no text": 3})


def test_no_field_at_all():
    with pytest.raises(BadSetting, match="no field to take the text from"):
        HubSettings("someone/stories", "main", "train", [])


def test_no_text_at_all(hub, fail, repo):
    hub.commit(repo, {STORIES: parquet([None, "", " \n"])})
    assert "no text in text of split train; set data.tinystories.fields" in fail(repo)


@pytest.mark.parametrize("fault", ["429", "503", "slow", "cut", "short", "long", "empty", "garbage", "redirect"])
def test_a_hiccup_is_ridden_out(hub, load, server, repo, fault):
    hub.commit(repo, {STORIES: parquet(stories(PAGE + 5), group=PAGE)})
    server.fail(DATA, fault)
    assert load(repo)["texts"] == stories(PAGE + 5)


@pytest.mark.parametrize(
    "fault", ["503", "cut", *(pytest.param(fault, marks=pytest.mark.slow) for fault in ("429", "stalled"))]
)
def test_a_hiccup_before_the_data(hub, load, server, repo, fault):
    hub.commit(repo, {ABSTRACTS: json_lines(abstracts(3)), "README.md": CARD})
    server.fail("/api/datasets/", fault)
    server.fail("README", fault)
    server.fail(DATA, fault)
    assert load(repo, fields=["title", "abstract"])["texts"] == joined(3)


FAULTS = ["503", "cut", "stalled", "redirect", "garbage", "empty"]


@pytest.mark.parametrize("fault", FAULTS)
def test_no_hub(hub, load, fail, server, repo, fault):
    hub.commit(repo, {STORIES: parquet(stories(3)), "README.md": CARD})
    server.fail("/api/datasets", fault, times=1000)
    assert "run the same command again" in fail(repo)
    server.heal()
    assert load(repo)["texts"] == stories(3)


@pytest.mark.parametrize("fault", [*FAULTS, "short"])
def test_no_data_and_nothing_lost(hub, load, fail, server, repo, tmp_path, fault):
    texts = stories(2 * PAGE)
    hub.commit(repo, {STORIES: parquet(texts)})
    assert load(repo, 2)["texts"] == texts[:2]
    server.fail("/blobs/", fault, times=1000)
    assert "run the same command again" in fail(repo)
    assert kept(tmp_path) == texts[:PAGE]
    server.heal()
    assert load(repo)["texts"] == texts


def test_wrong_bytes_on_the_way(hub, load, fail, server, repo, tmp_path):
    own = {"fields": ["title", "abstract"]}
    hub.commit(repo, {ABSTRACTS: json_lines(abstracts(PAGE + 1))})
    server.fail("/blobs/", "wrong", times=1000)
    assert "cannot be read (BadGzipFile: Not a gzipped file" in fail(repo, **own)
    assert kept(tmp_path) == []
    server.heal()
    assert load(repo, **own)["texts"] == joined(PAGE + 1)


@pytest.mark.parametrize("name", [STORIES, ABSTRACTS, "stories.jsonl"])
@pytest.mark.parametrize("damage", ["cut off", "garbage", "wrong"])
def test_damaged_files(hub, fail, repo, tmp_path, name, damage):
    fields = ["title", "abstract"] if name == ABSTRACTS else ["text"]
    good = {
        STORIES: parquet(stories(12_000)),
        ABSTRACTS: json_lines(abstracts(12_000)),
        "stories.jsonl": "".join(json.dumps({"text": text}) + "\n" for text in stories(200_000)).encode(),
    }[name]
    middle = len(good) // 2 - 7
    bad = {
        "cut off": good[:middle],
        "garbage": b"<html>no such file</html>\n",
        "wrong": good[:middle] + bytes(byte ^ 0xFF for byte in good[middle : middle + 50]) + good[middle + 50 :],
    }[damage]
    hub.commit(repo, {name: bad})
    assert "cannot be read" in fail(repo, fields=fields)
    texts = kept(tmp_path)
    assert len(texts) % PAGE == 0
    assert texts == (joined if name == ABSTRACTS else stories)(len(texts))


@pytest.mark.parametrize("header", [("Retry-After", "300"), ("RateLimit", '"api";r=0;t=300')])
def test_a_long_wait_is_not_begun(hub, fail, repo, monkeypatch, header):
    busy = Response(b"", 429, dict([header]))
    monkeypatch.setattr(Hub, "__call__", lambda hub, request: busy)
    assert "answers 429 Too Many Requests and asks to wait 300 s" in fail(repo)


def run(endpoint: str, folder: Path, *flags: str, **env: str) -> subprocess.Popen:
    """The stage, at work in a folder of its own."""
    folder.mkdir(exist_ok=True)
    (folder / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    command = [sys.executable, "-m", "stages.prepare", "--out", "out", *flags]
    env = environment(endpoint, folder / "home", **env)
    return subprocess.Popen(command, cwd=folder, env=env, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen) -> tuple[int, str]:
    """The exit status and what stands below the progress bars."""
    error = process.communicate(timeout=60)[1]
    assert "Traceback" not in error
    return process.returncode, error.rpartition("\r")[2].strip()


TINY = "roneneldan/TinyStories"
ARXIV = "gfissore/arxiv-abstracts-2021"


@pytest.mark.slow
def test_the_stage_with_and_without_a_network(hub, server, tmp_path):
    sha = hub.commit(TINY, {STORIES: parquet(stories(PAGE + 1)), "README.md": CARD})
    some, more = (["--source", "tinystories", "--num-samples", str(count)] for count in (100, PAGE + 1))
    assert ended(run(server.url, tmp_path, *some))[0] == 0
    nowhere = "http://127.0.0.1:9"
    assert ended(run(nowhere, tmp_path, *some))[0] == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["revision"] == sha
    assert manifest["licence"] == "cdla-sharing-1.0"
    status, error = ended(run(nowhere, tmp_path, *more))
    assert status == 1
    assert "\n" not in error.partition("error: ")[2]
    assert f"error: {TINY}: no answer from 127.0.0.1 (" in error
    assert "check the network and run the same command again: what was fetched is kept" in error
    status, error = ended(run(nowhere, tmp_path, *more, HF_HUB_OFFLINE="1"))
    assert status == 1
    assert f"error: {TINY}: not all documents are fetched yet, and HF_HUB_OFFLINE is set; unset it" in error
    assert ended(run(server.url, tmp_path, *more))[0] == 0
    assert kept(tmp_path) == stories(PAGE + 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", [STORIES, ABSTRACTS])
def test_killed_at_every_page(hub, load, server, repo, tmp_path, name):
    count = 2 * PAGE + 1
    if name == STORIES:
        own, right = {}, [f"{number} {os.urandom(500).hex()}" for number in range(count)]
        hub.commit(repo, {STORIES: parquet(right)})
    else:
        own, right = {"fields": ["title", "abstract"]}, joined(count)
        papers = [paper | {"doi": os.urandom(500).hex()} for paper in abstracts(count)]
        hub.commit(repo, {ABSTRACTS: json_lines(papers)})
    server.fail("/blobs/", "slow", times=1000)
    job = job_of(repo, None, tmp_path, own)
    for pages in range(1, 3):
        with start_client(server.url, tmp_path / "home") as process:
            process.stdin.write(job)
            process.stdin.flush()
            wait_until(lambda page=pages - 1: list(tmp_path.glob(f".work/corpora/*/{page:06}.parquet")))
            process.kill()
        texts = kept(tmp_path)
        assert len(texts) >= min(pages * PAGE, count)
        assert texts == right[: len(texts)]
    server.heal()
    assert load(repo, **own)["texts"] == right


@pytest.mark.slow
@pytest.mark.parametrize("source", ["tinystories", "scientific_papers"])
@pytest.mark.parametrize("where", ["/api/datasets", "/tree/", DATA])
def test_interrupted(hub, server, tmp_path, source, where):
    hub.commit(TINY, {STORIES: parquet(stories(10))})
    hub.commit(ARXIV, {ABSTRACTS: json_lines(abstracts(100))})
    server.fail(where, "stalled", times=1000)
    process = run(server.url, tmp_path, "--source", source, "--num-samples", "10", HF_HUB_DOWNLOAD_TIMEOUT="30")
    wait_until(lambda: any(re.search(where, request.path) for request in server.requests))
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    status, error = ended(process)
    assert status == 130
    assert error.startswith("interrupted: ") or "\ninterrupted: " in error
    assert time.monotonic() - began < 5
