"""What comes from the hub, and what is kept of it."""

import io
import json
import os

import pyarrow
import pyarrow.parquet
import pytest
from hub_client import ABSTRACTS, CARD, STORIES, abstracts, joined, json_lines, kept, parquet, ranges, stories

from nanogpt.data.sources.hub import PAGE

pytest_plugins = "hub_client"


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


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_conversations(hub, load, fail, repo, kind):
    turns = [[("user", f"{n}?"), ("assistant", f"{n}!"), ("user", "And?"), ("assistant", "Yes.")] for n in range(20)]
    records = [{"messages": [{"role": role, "content": text} for role, text in turn]} for turn in turns]
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), sink := io.BytesIO())
        hub.commit(repo, {STORIES: sink.getvalue()})
    else:
        hub.commit(repo, {ABSTRACTS: json_lines([*records, {"messages": []}])})
    loaded = load(repo, fields=["messages"], format="chat")
    first = [f"User: {n}?\n\nAssistant: {n}!" for n in range(20)]
    assert loaded["texts"] == [text for one in first for text in (one, f"{one}\n\nUser: And?\n\nAssistant: Yes.")]
    assert loaded["skipped"] == ({} if kind == "parquet" else {"no answer to a prompt": 1})
    assert "fields = ['text']: not those of a conversation" in fail(repo, fields=["text"], format="chat")
    pairs = [{"prompt": f"{n}?", "completion": f"{n}!"} for n in range(20)]
    hub.commit(repo, {ABSTRACTS: json_lines(pairs)})
    assert load(repo, fields=["prompt", "completion"], format="chat")["texts"] == first


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


def test_what_does_not_exist(hub, fail, repo, tmp_path):
    hub.commit(repo, {STORIES: parquet(["one"], n=pyarrow.array([1])), "data/test-00000-of-00001.parquet": b""})
    papers = f"{repo}-papers"
    hub.commit(papers, {ABSTRACTS: json_lines(abstracts(3))})
    empty = f"{repo}-empty"
    hub.commit(empty, {"README.md": CARD})
    for asked, own, *parts in [
        ("someone/else", {}, "data.tinystories.repo = 'someone/else': no such data set", "hf auth login"),
        ("no repo at all", {}, "data.tinystories.repo = 'no repo at all': no such data set"),
        (repo, {"revision": "old"}, f"data.tinystories.revision = 'old': not in {repo}; choose a branch"),
        (repo, {"split": "val"}, "data.tinystories.split = 'val': no such split", "there is train, test; choose"),
        (repo, {"fields": ["story"]}, "data.tinystories.fields = ['story']: ", "there is text (string), n (int64)"),
        (repo, {"fields": ["text", "n"]}, "no text in 'n'"),
        (papers, {"fields": ["text"]}, "no text in 'text'", "there is id (string), title (string)"),
        (papers, {"fields": ["categories"]}, "no text in 'categories'"),
        (empty, {}, "data.tinystories.repo", "cannot be read"),
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


def test_no_text_at_all(hub, fail, repo):
    hub.commit(repo, {STORIES: parquet([None, "", " \n"])})
    assert "data.tinystories.fields = ['text']: no text in it in split train" in fail(repo)
