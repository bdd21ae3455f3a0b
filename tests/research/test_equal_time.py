"""A plan on a real clone: experiments of dvc, and the scores of their models."""

import json

import pytest
from clone import Clone

from nanogpt.research.equal_time import compare_runs

PLAN = """
settings: {data.pretrain.source: stories, train.max_steps: 3}
seeds: [1, 2]
runs:
  base:
  higher: {train.lr: 0.01, train.min_lr: 0.001}
"""


@pytest.mark.slow
def test_a_plan_trains_each_run_once_and_scores_it_on_other_text(tmp_path):
    clone = Clone(tmp_path)
    (clone.folder / "recipes/ablations/small.yaml").write_text(PLAN)
    clone.commit("plan")
    done = clone.run("python", "-m", "stages.ablation", "small", "--out", "out/figures.json")
    figures = clone.json("out/figures.json")
    assert figures["command"] == "python -m stages.ablation small"
    assert figures["base"]["steps"] == 3 and figures["base"]["bpb"] != figures["base"]["val_bpb"]
    assert figures["higher"]["over_base"] == pytest.approx(figures["higher"]["bpb"] / figures["base"]["bpb"], rel=0.01)
    assert f"{figures['base']['bpb']:.4f}" in done.stdout
    names = clone.dvc("exp", "list", "--name-only").stdout.split()
    assert sorted(names) == ["small-base-1", "small-base-2", "small-higher-1", "small-higher-2"]
    again = clone.run("python", "-m", "stages.ablation", "small", "--out", "out/again.json")
    assert "Running stage" not in again.stdout
    assert json.loads((clone.folder / "out/again.json").read_text()) == figures


def test_ratios_are_paired_by_seed():
    rows = {"one": [{"bpb": 1.0}, {"bpb": 2.0}], "two": [{"bpb": 0.5}, {"bpb": 1.0}]}
    assert compare_runs(rows)["two"]["over_one"] == 0.5
    assert compare_runs(rows)["two"]["over_one_ci95"] == 0.0
