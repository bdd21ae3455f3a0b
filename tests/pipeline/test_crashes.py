"""Runs that are killed, interrupted or doubled: `dvc repro` again is enough, and the end is the same in every bit."""

import re
import time
from pathlib import Path

import pytest
from clone import Clone
from torture import LONGEST, TRAININGS, Kill, Reference, Run, Toll, disturb, processes, processes_left, results, saved

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

STAGES = ("prepare@pretrain", "prepare@finetune", "pretrain", "lora-finetune", "merge", "sample")


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Reference:
    return Reference(tmp_path_factory.mktemp("reference"), "sample")


def test_a_kill_in_each_stage_costs_nothing_but_time(reference, tmp_path):
    ways = ("SIGKILL all", "SIGKILL dvc") * 3
    kills = [Kill(stage, way, 0.3, stage in TRAININGS) for stage, way in zip(STAGES, ways, strict=True)]
    toll = Toll()
    disturb(reference, reference.fresh(tmp_path), kills, toll)
    assert toll.faults == []
    assert toll.complete == 1 and toll.kills.total() == len(kills)
    assert len(toll.resumed) >= len(TRAININGS) and min(toll.resumed) > 0


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


def test_a_stage_ends_with_its_dvc_however_early_that_dies(reference, tmp_path):
    clone = reference.fresh(tmp_path)
    clone.set(**{"train.max_steps": 20000, "train.compile": "off"})
    try:
        run = Run(clone, "repro", "pretrain")
        assert run.until(lambda: run.stage == "pretrain"), run.text
        run.strike("SIGKILL dvc")
        assert processes_left(clone.folder) == [], run.text
    finally:
        for process in processes(clone.folder):
            process.kill()


def test_two_at_once_do_not_meddle_with_each_other(reference, tmp_path):
    clone = reference.fresh(tmp_path)
    runs = [Run(clone, "repro", "pretrain"), Run(clone, "repro", "pretrain")]
    ends = [run.wait() for run in runs]
    assert 0 in ends
    for run, end in zip(runs, ends, strict=True):
        assert end == 0 or re.search(r"is busy, it is being blocked by|Unable to acquire lock", run.text), run.text
    again = Run(clone, "repro", "pretrain")
    assert again.wait() == 0, again.text
    assert pretrained(clone.folder) == pretrained(reference.clone.folder)


def test_a_killed_experiment_of_the_queue_is_resumed_when_it_is_queued_again(reference, tmp_path):
    clone = reference.fresh(tmp_path)

    def queue() -> None:
        clone.dvc("exp", "run", "--queue", "pretrain")
        assert Run(clone, "queue", "start", "-j", "1").wait() == 0

    try:
        queue()
        kill_experiment(clone)
        finish(clone)
        assert statuses(clone) == ["Failed"] and saved(clone.folder, "pretrain") > 0
        clone.dvc("queue", "remove", "--failed")
        queue()
        finish(clone)
        assert statuses(clone) == ["Success"]
    finally:
        Run(clone, "queue", "stop", "--kill").wait()
        for process in processes(clone.folder):
            process.kill()
    logs = [log.read_text() for log in (clone.folder / ".dvc/tmp/exps/run").glob("*/*.out")]
    assert sum("resuming after step" in log for log in logs) == 1
    (name,) = clone.dvc("exp", "list", "--name-only").stdout.split()
    clone.dvc("exp", "branch", name, "resumed")  # `dvc exp apply` wants the outs of the other stages too
    clone.git("checkout", "--quiet", "resumed")
    clone.dvc("checkout", "pretrain")
    assert pretrained(clone.folder) == pretrained(reference.clone.folder)


def pretrained(folder: Path) -> dict[str, object]:
    """What pretraining made; see `results`."""
    made = {name: value for name, value in results(folder).items() if re.match(r"(models|metrics)/pretrain", name)}
    assert {"models/pretrain/model.safetensors", "metrics/pretrain.json", "metrics/pretrain-val.csv"} <= made.keys()
    return made


def kill_experiment(clone: Clone) -> None:
    """Kill the experiment that the queue runs, while it trains and after it saved a state."""
    end = time.monotonic() + LONGEST
    while not (saved(clone.folder, "pretrain") and (running := processes(clone.folder, "stages.pretrain"))):
        assert time.monotonic() < end, statuses(clone)
        time.sleep(0.1)  # looking at all processes takes a core
    for process in processes(clone.folder, "exec-run") + running:
        process.kill()


def finish(clone: Clone) -> None:
    """Wait for the queue's worker, which ends when nothing is queued."""
    end = time.monotonic() + LONGEST
    while processes(clone.folder):
        assert time.monotonic() < end, statuses(clone)
        time.sleep(0.5)


def statuses(clone: Clone) -> list[str]:
    table = clone.dvc("queue", "status").stdout
    return sorted(re.findall(r"^[0-9a-f]{7} .* (Queued|Running|Success|Failed)$", table, re.MULTILINE))
