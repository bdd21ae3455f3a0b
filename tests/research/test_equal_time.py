"""A plan on a real clone: experiments of dvc, and the scores of their models."""

import pytest
from clone import Clone
from imports import ROOT

from nanogpt.research.equal_time import FOLDER, compare_runs, name_experiment, read_plan
from nanogpt.runtime.errors import UserError
from nanogpt.runtime.yaml_file import find_value, read_yaml

PLAN = """
settings: {data.pretrain.source: stories, train.max_steps: 3}
seeds: [1, 2]
runs:
  base:
  higher: {train.lr: 0.01, train.min_lr: 0.001, steps_of: base, train.max_steps: 9}
  plain: {steps_of: plain, train.max_minutes: 0.1}
"""


@pytest.mark.slow
def test_a_plan_trains_each_run_once_and_scores_it_on_other_text(tmp_path):
    clone = Clone(tmp_path)
    (clone.folder / "recipes/ablations/small.yaml").write_text(PLAN)
    clone.commit("plan")
    done = clone.run("python", "-m", "stages.ablation", "small", "--out", "out/figures.json")
    written = clone.json("out/figures.json")
    figures, runs = written["small"], written["small"]["runs"]
    assert figures["command"] == "python -m stages.ablation small"
    assert runs["base"]["steps"] == runs["higher"]["steps"] == 3
    assert runs["base"]["bpb"] != runs["base"]["val_bpb"]
    assert runs["plain"]["steps"] > 3
    assert figures["over_base"] == pytest.approx(runs["plain"]["bpb"] / runs["base"]["bpb"], rel=0.01)
    assert f"{runs['base']['bpb']:.4f}" in done.stdout
    names = clone.dvc("exp", "list", "--name-only").stdout.split()
    runs = ["small-base-1", "small-base-2", "small-higher-1", "small-higher-2", "small-plain-1", "small-plain-2"]
    assert sorted(name.rpartition("-")[0] for name in names) == runs
    again = clone.run("python", "-m", "stages.ablation", "small", "--out", "out/again.json")
    assert "Running stage" not in again.stdout
    assert clone.json("out/again.json") == written


def test_ratios_are_paired_by_seed():
    rows = {"one": [{"bpb": 1.0}, {"bpb": 2.0}], "two": [{"bpb": 0.5}, {"bpb": 1.0}]}
    figures = compare_runs(rows)
    assert (figures["two_percent"], figures["over_one"], figures["over_one_ci95"]) == (-50.0, 0.5, 0.0)


def test_another_setting_is_another_experiment():
    names = {name_experiment("a", ["commit", {"train.lr": lr}]) for lr in (0.1, 0.2, 0.1)}
    assert len(names) == 2 and all(name.startswith("a-") for name in names)


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / FOLDER).glob("*.yaml")))
def test_plans_have_keys_of_params(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    plan = read_plan(name)
    document, missing = read_yaml("params.yaml"), object()
    for changed in (plan.settings, *plan.runs.values()):
        for key in {*(changed or {})} - {"steps_of"}:
            section, _, last = key.rpartition(".")
            assert find_value(document, section).get(last, missing) is not missing, key


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds: [1, 2]", "seeds: 3", "write a list of two or more"),
        ("seeds: [1, 2]", "seeds: [1]", "write a list of two or more"),
        ("seeds: [1, 2]", "", "it needs settings, seeds and runs"),
        ("  base:", "  base: 5", "are keys of params.yaml"),
        ("  base:", "  base:\nx:", "nothing else"),
    ],
)
def test_a_plan_that_is_none(inside, old, new, message):
    (inside / FOLDER).mkdir(parents=True)
    (inside / FOLDER / "x.yaml").write_text(PLAN.replace(old, new))
    with pytest.raises(UserError, match=message):
        read_plan("x")
    with pytest.raises(UserError, match="choose one of x"):
        read_plan("y")
