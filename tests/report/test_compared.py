"""Runs beside the one of a report, in a real repository of git."""

import subprocess
from pathlib import Path

import pytest

from nanogpt.report.compared import differing_settings, open_run
from nanogpt.runtime.errors import UserError


def git(*words: str) -> str:
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.com")
    return subprocess.run(["git", *identity, *words], capture_output=True, text=True, check=True).stdout.strip()


def write(folder: Path, steps: int) -> None:
    (folder / "metrics").mkdir(parents=True, exist_ok=True)
    (folder / "metrics" / "pretrain.json").write_text(f'{{"steps": {steps}}}')
    (folder / "params.yaml").write_text(f"seed: 1\ntrain: {{max_steps: {steps}, lr: 0.1}}\n")


@pytest.fixture
def history(inside):
    """A commit of 10 steps, an experiment of 20 upon it as DVC keeps one, 30 in the working tree."""
    git("init", "--quiet")
    write(inside, 10)
    git("add", ".")
    git("commit", "--quiet", "--message", "one")
    write(inside, 20)
    git("commit", "--quiet", "--all", "--message", "an experiment")
    git("update-ref", f"refs/exps/{'a' * 2}/{'b' * 38}/eager-hen", "HEAD")
    git("reset", "--quiet", "--hard", "HEAD~")
    write(inside, 30)
    return inside


@pytest.mark.parametrize(("name", "steps"), [("HEAD", 10), ("eager-hen", 20), (".", 30), ("metrics", 30)])
def test_where_a_run_is_found(history, name, steps):
    with open_run(name) as folder:
        assert (folder / "pretrain.json").read_text() == f'{{"steps": {steps}}}'
        differs = differing_settings(Path("metrics"), folder)
    assert differs == ("the same" if steps == 30 else f"train.max_steps: {steps}")


@pytest.mark.parametrize("name", ["hen", "--output=x", "HEAD~5"])
def test_names_of_nothing(history, name):
    with pytest.raises(UserError, match=r"neither a folder, nor an experiment"), open_run(name):
        pass
    assert not Path("x").exists()


def test_a_folder_without_metrics(history):
    Path("docs").mkdir()
    with pytest.raises(UserError, match=r"^--also docs: no metrics of a run there"), open_run("docs"):
        pass


def test_a_revision_without_metrics(history):
    git("rm", "-r", "--quiet", "--cached", "metrics")
    git("commit", "--quiet", "--message", "none")
    with pytest.raises(UserError, match=r"^--also HEAD: this revision has no metrics"), open_run("HEAD"):
        pass


def test_settings_that_one_of_them_lacks(inside):
    for name, text in (("one", "a: 1\nb: {c: 2, d: 3}\n"), ("two", "a: 1\nb: {c: 4, e: null}\n")):
        Path(name, "metrics").mkdir(parents=True)
        Path(name, "params.yaml").write_text(text)
    assert differing_settings(Path("one/metrics"), Path("two/metrics")) == "b.c: 4, b.e: None, no b.d"
    assert differing_settings(Path("one/metrics"), inside) == "not known"
    Path("two/params.yaml").write_text("a: [1\n")
    with pytest.raises(UserError, match=r"^two/params\.yaml, line 2: not valid YAML"):
        differing_settings(Path("one/metrics"), Path("two/metrics"))
    Path("one/before").mkdir()  # a copy of earlier metrics: the settings beside it are of now
    assert differing_settings(Path("one/metrics"), Path("one/before")) == "not known"
    assert differing_settings(Path("one/metrics"), Path("one/metrics")) == "the same"
