"""The hub at its worst: every fault is ridden out or is one message, and nothing fetched is lost."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_client import (
    ABSTRACTS,
    CARD,
    DATA,
    STORIES,
    abstracts,
    environment,
    job_of,
    joined,
    json_lines,
    kept,
    parquet,
    start_client,
    stories,
)
from hub_server import Hub
from imports import ROOT
from loopback import Response, wait_until

from nanogpt.data.sources.hub import PAGE

pytest_plugins = "hub_client"


@pytest.mark.parametrize("fault", ["429", "cut", "short", "long", "garbage"])
def test_a_hiccup_is_ridden_out(hub, load, server, repo, fault):
    hub.commit(repo, {STORIES: parquet(stories(PAGE + 5), group=PAGE)})
    server.fail(DATA, fault)
    assert load(repo)["texts"] == stories(PAGE + 5)


def test_no_hub(hub, fail, server, repo):
    hub.commit(repo, {STORIES: parquet(stories(3)), "README.md": CARD})
    server.fail("/api/datasets", "garbage", times=1000)
    assert "run the same command again" in fail(repo)


@pytest.mark.parametrize("fault", ["503", "stalled", "garbage", "short"])
def test_no_data_and_nothing_lost(hub, load, fail, server, repo, tmp_path, fault):
    texts = stories(2 * PAGE)
    hub.commit(repo, {STORIES: parquet(texts)})
    assert load(repo, 2)["texts"] == texts[:2]
    server.fail("/blobs/", fault, times=1000)
    assert "run the same command again" in fail(repo)
    assert kept(tmp_path) == texts[:PAGE]
    server.heal()
    assert load(repo)["texts"] == texts


@pytest.mark.parametrize("name", [STORIES, ABSTRACTS])
@pytest.mark.parametrize("damage", ["cut off", "garbage", "wrong"])
def test_damaged_files(hub, fail, repo, tmp_path, name, damage):
    fields = ["title", "abstract"] if name == ABSTRACTS else ["text"]
    good = json_lines(abstracts(12_000)) if name == ABSTRACTS else parquet(stories(12_000))
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
    command = [sys.executable, "-m", "stages.prepare", "--out", "out", "--overwrite", *flags]
    env = environment(endpoint, folder / "home", **env)
    return subprocess.Popen(command, cwd=folder, env=env, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen) -> tuple[int, str]:
    """The exit status and what stands below the progress bars."""
    error = process.communicate(timeout=60)[1]
    assert "Traceback" not in error
    return process.returncode, error.rpartition("\r")[2].strip()


TINY = "roneneldan/TinyStories"


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
    assert "error: no answer from 127.0.0.1 (" in error
    assert "check the network and run the same command again: what was fetched is kept" in error
    status, error = ended(run(nowhere, tmp_path, *more, HF_HUB_OFFLINE="1"))
    assert status == 1
    assert f"error: {TINY}: not all documents are fetched yet, and HF_HUB_OFFLINE is set; unset it" in error
    assert ended(run(server.url, tmp_path, *more))[0] == 0
    assert kept(tmp_path) == stories(PAGE + 1)


@pytest.mark.slow
def test_killed_at_every_page(hub, load, server, repo, tmp_path):
    count, own = 2 * PAGE + 1, {"fields": ["title", "abstract"]}
    hub.commit(repo, {ABSTRACTS: json_lines([paper | {"doi": os.urandom(500).hex()} for paper in abstracts(count)])})
    server.fail("/blobs/", "slow", times=1000)
    job = job_of(repo, None, tmp_path, own)
    for pages in range(1, 3):
        with start_client(server.url, tmp_path / "home") as process:
            process.stdin.write(job)
            process.stdin.flush()
            wait_until(lambda page=pages - 1: list(tmp_path.glob(f".work/corpora/*/{page:06}.jsonl.gz")))
            process.kill()
        texts = kept(tmp_path)
        assert len(texts) >= min(pages * PAGE, count)
        assert texts == joined(len(texts))
    server.heal()
    assert load(repo, **own)["texts"] == joined(count)
