"""Many experiments: the queue with cores divided among its workers, and results exchanged between two clones."""

import json
import os
import shutil
import time

import pytest
from clone import Clone

pytestmark = pytest.mark.slow
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
        time.sleep(1)
    clone.dvc("queue", "stop")
    for seed in (2, 3):
        apply(clone, seed)
        (machine,) = json.loads((clone.folder / "metrics/pretrain-machine.json").read_text())
        assert machine["threads"] == 1  # of the two cores each worker used its own


def apply(clone: Clone, seed: int) -> None:
    """Take over the results of the experiment with this seed."""
    shown = json.loads(clone.dvc("exp", "show", "--json").stdout)
    for one in [one for commit in shown for one in commit["experiments"] or []]:
        found = one["revs"][0]
        if found["data"]["params"]["params.yaml"]["data"]["seed"] == seed:
            clone.dvc("exp", "apply", found["name"])
            return
    raise AssertionError(f"no experiment of seed {seed}: {shown}")


def test_an_experiment_goes_through_remotes_to_another_clone(tmp_path):
    origin = Clone(tmp_path / "origin")
    origin.dvc("remote", "add", "--default", "store", str(tmp_path / "store"))
    origin.dvc("repro", "pretrain")
    origin.commit("results")
    origin.dvc("push")
    one, other = (origin.git_clone(tmp_path / name) for name in ("one", "other"))
    one.dvc("pull", "pretrain", "prepare", "check")
    one.dvc("exp", "run", "-n", "longer", "-S", "train.max_steps=6", "pretrain")
    one.dvc("exp", "push", "origin", "longer")
    assert "longer" in other.dvc("exp", "list", "origin").stdout
    other.dvc("exp", "pull", "origin", "longer")
    other.dvc("exp", "apply", "longer")
    other.dvc("checkout", "pretrain")
    metrics, model = "metrics/pretrain.json", "models/pretrain/model.safetensors"
    assert json.loads((other.folder / metrics).read_text())["steps"] == 6
    for name in (metrics, model):
        assert (other.folder / name).read_bytes() == (one.folder / name).read_bytes()
