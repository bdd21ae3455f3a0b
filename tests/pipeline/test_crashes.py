"""Runs that are killed, interrupted or doubled: `dvc repro` again is enough, and the end is the same in every bit."""

import json
import re
import shutil
import time
from copy import copy
from pathlib import Path

import pytest
from clone import Clone
from ruamel.yaml import YAML
from torture import (
    LONGEST,
    STEPS,
    TRAININGS,
    Kill,
    Reference,
    Run,
    Toll,
    disturb,
    processes,
    processes_left,
    results,
    saved,
    torture,
)

pytestmark = pytest.mark.slow

STAGES = ("prepare@pretrain", "prepare@finetune", "pretrain", "lora-finetune", "merge", "sample")


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Reference:
    return Reference(tmp_path_factory.mktemp("reference"), "sample")


@pytest.mark.parametrize("way", ["SIGKILL dvc", "SIGKILL all"])
def test_a_kill_in_each_stage_costs_nothing_but_time(reference, way, tmp_path):
    kills = [Kill(stage, way, 0.3, saved=stage in TRAININGS) for stage in STAGES]
    toll = Toll()
    disturb(reference, reference.fresh(tmp_path), kills, toll)
    assert toll.faults == []
    assert toll.complete == 1 and toll.kills.total() == len(kills)
    assert len(toll.resumed) >= len(TRAININGS) and min(toll.resumed) > 0


def test_kills_at_random_moments(reference, tmp_path):
    toll = torture(reference, 4, 1, tmp_path)
    assert toll.faults == []
    assert toll.kills.total() == 4


def test_ctrl_c_keeps_the_training_and_says_how_to_go_on(reference, tmp_path):
    clone = reference.fresh(tmp_path)
    run = Run(clone, "repro", "pretrain")
    assert run.until(lambda: run.stage == "pretrain" and saved(clone.folder, "pretrain") > 0), run.text
    run.strike("SIGINT all")
    said = re.search(
        r"^interrupted: the state after (\d+) steps is kept in (\S+); `dvc repro` resumes from there$", run.text, re.M
    )
    assert said and Path(said[2]).is_file(), run.text
    # bash becomes the stage, so DVC sees its status; dash, taken where SHELL is not set, dies of the same signal.
    assert re.search(r"exited with (130|-2)$", run.text, re.M) and run.wait() != 0
    again = Run(clone, "repro", "pretrain")
    assert again.wait() == 0, again.text
    assert f"resuming after step {said[1]}, from the state in {Path(said[2]).parent}" in again.text
    assert pretrained(clone.folder) == pretrained(reference.clone.folder)
    assert processes(clone.folder) == []


def test_settings_that_are_edited_while_they_are_trained(reference, tmp_path):
    """DVC records what the file says in the end, so the stage fails; put back, they are not trained again."""
    clone = reference.fresh(tmp_path)
    before = (clone.folder / "params.yaml").read_bytes()
    run = Run(clone, "repro", "pretrain")
    assert run.until(lambda: saved(clone.folder, "pretrain") > 0), run.text
    clone.set(seed=2)
    assert run.wait() != 0
    assert "error: params.yaml: seed changed while this stage ran" in run.text
    (clone.folder / "params.yaml").write_bytes(before)
    again = Run(clone, "repro", "pretrain")
    assert again.wait() == 0, again.text
    assert f"resuming after step {STEPS}," in again.text
    assert pretrained(clone.folder) == pretrained(reference.clone.folder)


def test_a_stage_ends_with_its_dvc_however_early_that_dies(reference, tmp_path):
    clone = reference.fresh(tmp_path)
    clone.set(**{"train.max_steps": 20000, "train.compile": "off"})
    try:
        for _ in range(3):
            run = Run(clone, "repro", "pretrain")
            assert run.until(lambda run=run: run.stage == "pretrain"), run.text
            run.strike("SIGKILL dvc")
            assert processes_left(clone.folder) == [], run.text
    finally:
        for process in processes(clone.folder):
            process.kill()


def test_two_at_once_do_not_meddle_with_each_other(reference, tmp_path):
    clone = reference.fresh(tmp_path)
    pair = [Run(clone, "repro", "sample"), Run(clone, "repro", "sample")]
    for run in pair:
        run.until(lambda: saved(clone.folder, "pretrain") > 0)
    runs = [*pair, Run(clone, "repro", "sample")]
    ends = [run.wait() for run in runs]
    assert 0 in ends
    for run, end in zip(runs, ends, strict=True):
        assert end == 0 or re.search(r"is busy, it is being blocked by|Unable to acquire lock", run.text), run.text
    again = Run(clone, "repro", "sample")
    assert again.wait() == 0, again.text
    assert reference.faults(clone) == []


def test_a_killed_experiment_of_the_queue_goes_on_when_it_is_queued_again(reference, tmp_path):
    clone = copy(reference.clone)
    clone.folder = tmp_path / "nanogpt"
    clone.env = clone.env | {"DVC_SITE_CACHE_DIR": str(tmp_path / "site-cache")}
    shutil.copytree(reference.clone.folder, clone.folder)
    clone.commit("results")
    try:
        clone.dvc("exp", "run", "--queue", "-S", "train.lr=0.001,0.002", "-S", "model.arch=base,optimized", "pretrain")
        assert Run(clone, "queue", "start", "-j", "1").wait() == 0
        settings = kill_experiment(clone)
        finish(clone)
        assert statuses(clone) == ["Failed", "Success", "Success", "Success"]
        assert saved(clone.folder, "pretrain") > 0
        clone.dvc("queue", "remove", "--failed")
        again = [word for key, value in settings.items() for word in ("-S", f"{key}={value}")]
        name = re.search(r"experiment '(.+)'", clone.dvc("exp", "run", "--queue", *again, "pretrain").stdout)[1]
        assert Run(clone, "queue", "start", "-j", "1").wait() == 0
        finish(clone)
        assert statuses(clone) == ["Success"] * 4
    finally:
        Run(clone, "queue", "stop", "--kill").wait()
        for process in processes(clone.folder):
            process.kill()
    assert all((folder / "done").exists() for folder in (clone.folder / ".work/pretrain").iterdir())
    logs = [log.read_text() for log in (clone.folder / ".dvc/tmp/exps/run").glob("*/*.out")]
    assert sum("resuming after step" in log for log in logs) == 1
    assert len(set(losses(clone))) == 4
    clone.dvc("exp", "apply", name)
    undisturbed = reference.fresh(tmp_path / "undisturbed")
    undisturbed.set(**settings)
    undisturbed.dvc("repro", "pretrain")
    assert pretrained(clone.folder) == pretrained(undisturbed.folder)
    assert "val.loss_nats" in json.loads(clone.dvc("metrics", "diff", "--json").stdout)["metrics/pretrain.json"]
    clone.dvc("plots", "diff", "HEAD", name, "--out", "page")
    assert name in (clone.folder / "page/index.html").read_text(encoding="utf-8")


def pretrained(folder: Path) -> dict[str, object]:
    """What pretraining made; see `results`."""
    made = {name: value for name, value in results(folder).items() if re.match(r"(models|metrics)/pretrain", name)}
    assert {"models/pretrain/model.safetensors", "metrics/pretrain.json", "metrics/pretrain-val.csv"} <= made.keys()
    return made


def kill_experiment(clone: Clone) -> dict[str, object]:
    """Kill the experiment that the queue runs, in the midst of its training; its settings."""
    end = time.monotonic() + LONGEST
    while not (saved(clone.folder, "pretrain") and (running := processes(clone.folder, "stages.pretrain"))):
        assert time.monotonic() < end, statuses(clone)
        time.sleep(0.02)
    params = YAML(typ="safe").load(Path(running[0].cwd(), "params.yaml"))
    for process in processes(clone.folder, "exec-run") + running:
        process.kill()
    return {"train.lr": params["train"]["lr"], "model.arch": params["model"]["arch"]}


def finish(clone: Clone) -> None:
    """Wait for the queue's worker, which ends when nothing is queued."""
    end = time.monotonic() + LONGEST
    while processes(clone.folder):
        assert time.monotonic() < end, statuses(clone)
        time.sleep(0.2)


def statuses(clone: Clone) -> list[str]:
    table = clone.dvc("queue", "status").stdout
    return sorted(re.findall(r"^[0-9a-f]{7} .* (Queued|Running|Success|Failed)$", table, re.MULTILINE))


def losses(clone: Clone) -> list[float]:
    """Of the experiments that `dvc exp show` lists."""
    commits = json.loads(clone.dvc("exp", "show", "--json").stdout)
    found = [experiment["revs"][0]["data"] for commit in commits for experiment in commit["experiments"] or []]
    return [one["metrics"]["metrics/pretrain.json"]["data"]["val"]["loss_nats"] for one in found]
