"""Every source through a real `dvc repro`, from a server on the loopback address to samples."""

import hashlib
import io
import json
import random

import needs
import pyarrow
import pyarrow.compute
import pyarrow.parquet
import pytest
from atom_feed import Arxiv, paper
from clone import Clone
from hub_server import Hub
from loopback import Request, Response, Server
from shared import SHARED

pytestmark = pytest.mark.slow

SHAKESPEARE = SHARED / "corpora" / "tinyshakespeare.txt"
WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "one", "dog", "run", "home", "to", "tea"]


def story(n: int) -> str:
    return f"Story {n}: {' '.join(random.Random(n).choices(WORDS, k=40))}."


def parquet(texts: list[str]) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), file, row_group_size=50)
    return file.getvalue()


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Clone:
    made = Clone(tmp_path_factory.mktemp("sources"))
    made.env["HF_HOME"] = str(made.folder.parent / "hub-home")
    made.env["HF_HUB_DOWNLOAD_TIMEOUT"] = "2"
    return made


def prepared(clone: Clone, target: str) -> dict:
    """What the manifest says after `dvc repro` of a stage, of which the second time does nothing."""
    clone.dvc("repro", target)
    assert "Running stage" not in clone.dvc("repro", target).stdout
    manifest = clone.json("data/pretrain/manifest.json")
    for split, about in manifest["splits"].items():
        data = (clone.folder / f"data/pretrain/{split}.bin").read_bytes()
        assert about["sha256"] == hashlib.sha256(data).hexdigest()
        assert about["bytes_per_token"] == pytest.approx(about["bytes"] / about["tokens"])
    assert manifest["overlap"] == 0
    return manifest


def test_tinystories_and_scientific_papers_from_the_hub(clone):
    hub = Hub()
    stories = [story(n) for n in range(300)]
    shards = {f"data/train-{i:05}-of-00002.parquet": parquet(stories[150 * i : 150 * (i + 1)]) for i in (0, 1)}
    card = b"---\nlicense: cdla-sharing-1.0\n---\n"
    commit = hub.commit("roneneldan/TinyStories", shards | {"README.md": card})
    records = [{"id": str(n), "title": f"On {n}", "abstract": f"  We study\n  {story(n)}"} for n in range(200)]
    lines = "".join(json.dumps(record) + "\n" for record in [*records, records[7]])
    packed = pyarrow.compress(lines.encode(), codec="gzip", asbytes=True)
    hub.commit("gfissore/arxiv-abstracts-2021", {"arxiv-abstracts.jsonl.gz": packed})
    with hub.serve() as server:
        clone.env["HF_ENDPOINT"] = server.url
        clone.set(**{"data.pretrain.source": "tinystories", "data.pretrain.num_samples": 220})
        clone.set(**{"data.finetune.source": "scientific_papers", "data.finetune.num_samples": None})
        server.fail("parquet|blobs", "cut", times=2)
        manifest = prepared(clone, "sample")
        papers = clone.json("data/finetune/manifest.json")
    assert (manifest["source"], manifest["revision"], manifest["licence"]) == (
        "roneneldan/TinyStories", commit, "cdla-sharing-1.0",
    )  # fmt: skip
    assert sum(about["bytes"] for about in manifest["splits"].values()) == sum(map(len, stories[:220]))
    assert (papers["documents_read"], papers["duplicates_removed"]) == (201, 1)
    clone.set(**{"tokenizer.vocab_size": 420})  # the hub is gone, what was fetched is not
    assert prepared(clone, "prepare")["documents_read"] == 220


@needs.real_text
def test_shakespeare_and_the_arxiv_api(clone):
    arxiv = Arxiv([paper(n) for n in range(120)])

    def site(request: Request) -> Response:
        return arxiv(request) if "/api/query" in request.path else Response(SHAKESPEARE.read_bytes())

    with Server(site) as server:
        clone.set(**{"data.arxiv_api.url": f"{server.url}/api/query", "data.arxiv_api.delay_s": 0.0})
        clone.set(**{"data.finetune.source": "arxiv_api", "data.finetune.num_samples": 100})
        clone.set(**{"data.shakespeare.url": f"{server.url}/input.txt", "tokenizer.unknown": "replace"})
        clone.set(**{"data.pretrain.source": "shakespeare"})
        server.fail("input.txt", "cut")
        manifest = prepared(clone, "prepare")
        papers = clone.json("data/finetune/manifest.json")
    assert (manifest["tokenizer"], manifest["splits"]["val"]["tokens"]) == ("char", 111_540 + 2)
    assert (papers["source"], papers["documents_read"]) == ("arXiv API: cat:cs.CL", 100)
