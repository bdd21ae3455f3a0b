"""Several processes under DVC: the queue's workers, one run's, and results exchanged between two clones."""

import json
import os
import shutil
import time

import pytest
from clone import Clone, stages_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
SECONDS = 180


@pytest.mark.skipif(not shutil.which("taskset") or len(os.sched_getaffinity(0)) < 2, reason="no two cores to divide")
def test_workers_of_the_queue_have_a_core_each(tmp_path):
    clone = Clone(tmp_path)
    clone.set(**{"train.threads": "auto"})
    clone.dvc("repro", "prepare")
    clone.commit("results")
    for seed in (2, 3):
        clone.dvc("exp", "run", "--queue", "-S", f"seed={seed}", "pretrain")
    for worker, core in enumerate(sorted(os.sched_getaffinity(0))[:2], start=1):
        clone.run("taskset", "-c", str(core), "dvc", "queue", "start", "-j", str(worker))
    end = time.monotonic() + SECONDS
    while (status := clone.dvc("queue", "status").stdout).count("Success") < 2:
        assert "Failed" not in status and time.monotonic() < end, status
        time.sleep(5)  # asking takes seconds of a core that the workers need
    clone.dvc("queue", "stop")
    for seed in (2, 3):
        clone.dvc("get", ".", "metrics/pretrain-machine.json", "--rev", name_of(clone, seed), "--out", f"{seed}.json")
        (machine,) = json.loads((clone.folder / f"{seed}.json").read_text())
        assert machine["threads"] == 1  # of the two cores each worker used its own


def name_of(clone: Clone, seed: int) -> str:
    """The name of the experiment with this seed."""
    shown = json.loads(clone.dvc("exp", "show", "--json").stdout)
    found = [one["revs"][0] for commit in shown for one in commit["experiments"] or []]
    (name,) = [one["name"] for one in found if one["data"]["params"]["params.yaml"]["data"]["seed"] == seed]
    return name


def test_dvc_trains_in_two_processes(tmp_path):
    clone = Clone(tmp_path)
    clone.set(**{"train.processes": 2, "train.threads": 1})
    clone.dvc("repro", "merge")
    for stage in ("pretrain", "lora-finetune"):
        (machine,) = json.loads((clone.folder / f"metrics/{stage}-machine.json").read_text())
        assert (machine["processes"], machine["threads"]) == (2, 1)
    assert stages_run(clone.dvc("repro", "merge")) == []
