"""A plan on a real clone: experiments of dvc, and the scores of their models."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
from clone import Clone
from imports import ROOT

from nanogpt.data.sources.load import Data, load_corpus
from nanogpt.model.build import model_config
from nanogpt.model.config import ModelSettings
from nanogpt.pipeline import equal_time
from nanogpt.pipeline.equal_time import (
    FOLDER,
    Plan,
    compare_runs,
    generate_test_text,
    name_experiment,
    read_plan,
    split_text,
)
from nanogpt.runtime.errors import UserError
from nanogpt.runtime.params import load
from nanogpt.training.settings import TrainSettings

PLAN = """
settings: {data.pretrain.source: stories, train.max_steps: 3}
seeds: [1, 2]
runs:
  base:
  higher: {train.lr: 0.01, train.min_lr: 0.001, steps_of: base, train.max_steps: 9}
  loop: {steps_of: plain, train.max_minutes: 0.1}
"""


@pytest.mark.slow
def test_a_plan_trains_each_run_once_and_scores_it_on_other_text(tmp_path):
    clone = Clone(tmp_path)
    (clone.folder / "recipes/ablations/small.yaml").write_text(PLAN.partition("  loop:")[0])
    text = "\n".join(json.dumps({"text": f"once upon a time there were {i} birds"}) for i in range(200))
    (tmp_path / "birds.jsonl").write_text(text)
    clone.commit("plan")
    command = ("python", "-m", "stages.ablation", "small", "--text", "../birds.jsonl", "--out")
    done = clone.run(*command, "out/figures.json")
    written = clone.json("out/figures.json")
    figures, runs = written["small"], written["small"]["runs"]
    assert figures["command"] == "python -m stages.ablation small --text ../birds.jsonl"
    assert runs["base"]["steps"] == runs["higher"]["steps"] == 3
    assert runs["base"]["bpb"] != runs["base"]["val_bpb"]
    assert figures["over_base"] == pytest.approx(runs["higher"]["bpb"] / runs["base"]["bpb"], rel=0.01)
    assert f"{runs['base']['bpb']:.4f}" in done.stdout
    names = clone.dvc("exp", "list", "--name-only").stdout.split()
    runs = ["small-base-1", "small-base-2", "small-higher-1", "small-higher-2"]
    assert sorted(name.rpartition("-")[0] for name in names) == runs
    (clone.folder / "docs" / "notes.md").write_text("what was found")
    clone.commit("notes")  # no result depends on them
    again = clone.run(*command, "out/again.json")
    assert "Running stage" not in again.stdout
    assert clone.json("out/again.json") == written


def test_text_for_the_test_is_none_of_the_training_text(tmp_path, monkeypatch):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    own = [f"{i} birds" for i in range(100)]
    Path("birds.txt").write_text("\n\n".join(own))
    plan = Plan("x", {"data.pretrain.source": "stories"}, [1, 2], {})
    settings, test = split_text(plan, "birds.txt")
    held = [document.text for document in test.documents(Counter())]
    trained = [json.loads(line)["text"] for line in Path(settings["data.pretrain.path"]).read_text().splitlines()]
    assert len(held) == 5 and sorted(held + trained) == sorted(own)
    _, drawn = generate_test_text(plan)
    corpus = load_corpus(load(data=Data).data.pretrain, load(data=Data).data)
    first = [[document.text for document in islice(texts.documents(Counter()), 50)] for texts in (drawn, corpus)]
    assert not set(first[0]) & set(first[1]) and [*map(len, first)] == [50, 50]


def test_the_plain_loop_is_timed_with_the_runs_own_model(monkeypatch):
    """120 seconds hold 240 steps of half a second; the model and the batch are those that the run trains."""
    timed = {}

    def build_only(entries, steps):
        timed["batch"], timed["config"] = entries["plain"].args[1].batch_size, entries["plain"].args[0]
        return SimpleNamespace(medians={"plain": 0.5})

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(equal_time, "time_in_turns", build_only)
    settings = {"train.max_minutes": 2.0, "train.grad_accum": 3, "model.tie_embeddings": True, "tokenizer.kind": "gpt2"}
    assert equal_time.plain_steps(settings) == 240
    given = load(model=ModelSettings, train=TrainSettings)
    assert timed["batch"] == 3 * given.train.batch_size
    assert timed["config"] == model_config(replace(given.model, tie_embeddings=True), 50304)


def test_ratios_are_paired_by_seed():
    rows = {"one": [{"bpb": 1.0}, {"bpb": 2.0}], "two": [{"bpb": 0.5}, {"bpb": 1.0}]}
    figures = compare_runs(rows)
    assert (figures["two_percent"], figures["over_one"], figures["over_one_ci95"]) == (-50.0, 0.5, 0.0)


def test_another_setting_is_another_experiment():
    names = {name_experiment("a", ["commit", {"train.lr": lr}]) for lr in (0.1, 0.2, 0.1)}
    assert len(names) == 2 and all(name.startswith("a-") for name in names)


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / FOLDER).glob("*.yaml")))
def test_plans_can_be_run(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert len(read_plan(name).runs) > 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds: [1, 2]", "seeds: 3", "write a list of two or more"),
        ("seeds: [1, 2]", "seeds: [1]", "write a list of two or more"),
        ("seeds: [1, 2]", "seeds: [1, 1]", "write a list of two or more"),
        ("seeds: [1, 2]", "seeds: [1, two]", "of two or more whole numbers"),
        ("settings: {", "settings: 5\nx: {", "nothing else"),
        ("max_minutes: 0.1", "max_steps: 5", "run loop: train.max_minutes = None: the plain loop needs a time"),
        ("seeds: [1, 2]", "", "it needs settings, seeds and runs"),
        ("  base:", "  base: 5", "are keys of params.yaml"),
        ("  base:", "  base:\nx:", "nothing else"),
        ("  loop:", "  plain:", "a run cannot be called plain"),
        ("steps_of: base", "steps_of: x", "run higher: steps_of = 'x': no earlier run; choose one of plain, base"),
        ("train.lr", "train.rate", "run higher: train.rate = 0.01: not a key of params"),
        ("lr: 0.01", "lr: 10", "run higher: train.lr = 10.0: not between 0 and 1"),
    ],
)
def test_a_plan_that_is_none(inside, old, new, message):
    (inside / FOLDER).mkdir(parents=True)
    (inside / FOLDER / "x.yaml").write_text(PLAN.replace(old, new, 1))
    shutil.copy(ROOT / "params.yaml", inside)
    with pytest.raises(UserError, match=message):
        read_plan("x")
    with pytest.raises(UserError, match="choose one of x"):
        read_plan("y")
