"""Files that a kill of `dvc` tears, as it writes them in place: what it says of them before and after the repair."""

import re
import sys

import pytest
from clone import Clone, stages_run
from dvc.repo import Repo

pytestmark = pytest.mark.slow

TARGET = "prepare@finetune"
STAGES = ["check", "prepare@pretrain", TARGET]


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Clone:
    made = Clone(tmp_path_factory.mktemp("torn"))
    made.dvc("repro", TARGET)
    return made


def repair(clone: Clone) -> list[str]:
    return clone.run(sys.executable, "-m", "stages.mend").stdout.splitlines()


def test_rwlock(clone):
    (clone.folder / ".dvc/tmp/rwlock").write_bytes(b'{"read": {}, "wri')
    assert "Unable to read RWLock-file" in clone.dvc("repro", TARGET, ok=False).stderr
    assert repair(clone) == [".dvc/tmp/rwlock was damaged: removed"]
    assert stages_run(clone.dvc("repro", TARGET)) == []


@pytest.mark.parametrize(
    ("last", "said"),
    [
        ("md5: ", "no file"),
        ("outs", "dvc.lock was damaged: renamed to dvc.lock.damaged"),  # not YAML
        ("path", "renamed to dvc.lock.damaged, and that of the last commit restored"),  # YAML, but not a lock file
    ],
)
def test_the_lock_file_wherever_it_is_cut(clone, last, said):
    """Nothing is prepared again: the last commit has it, or the run cache."""
    path = clone.folder / "dvc.lock"
    whole = path.read_bytes()
    if "commit" in said:
        clone.commit("results")
    path.write_bytes(whole[: whole.rindex(last.encode()) + len(last)])
    clone.dvc("status", ok="damaged" not in said)
    cut = path.read_bytes()
    assert said in "".join(repair(clone))
    assert "damaged" not in said or (clone.folder / "dvc.lock.damaged").read_bytes() == cut
    assert set(stages_run(clone.dvc("repro", TARGET))) <= {"check"}
    assert path.read_bytes() == whole


def test_a_conflict_is_not_damage(clone):
    path = clone.folder / "dvc.lock"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"\nstages:", b"\n<<<<<<< HEAD\nstages:\n=======\n>>>>>>> other", 1))
    done = clone.run(sys.executable, "-m", "stages.mend", ok=False)
    assert done.stderr.startswith("error: dvc.lock holds a merge conflict: settle it with `git checkout")
    path.write_bytes(whole)


def test_empty_folders_of_the_run_cache(clone):
    runs = clone.folder / ".dvc/cache/runs"
    files = list(runs.glob("*/*/*"))
    for file in files:
        file.unlink()
    clone.set(**{"data.finetune.num_samples": 151})
    clone.dvc("repro", TARGET)
    for file in runs.glob("*/*/*"):
        file.unlink()
    (clone.folder / "dvc.lock").unlink()
    assert re.search(r"join\(\) argument must be str", clone.dvc("repro", TARGET, ok=False).stderr)
    assert len(repair(clone)) >= 2
    assert stages_run(clone.dvc("repro", TARGET)) == STAGES
    clone.git("checkout", "--quiet", "HEAD", ".")


def test_nothing_is_repaired_while_a_dvc_writes(clone):
    (clone.folder / ".dvc/tmp/rwlock").write_bytes(b"")
    with Repo(str(clone.folder)).lock:
        done = clone.run(sys.executable, "-m", "stages.mend", ok=False)
    assert done.stderr == "error: .dvc/tmp/lock: a dvc is at work here; run this again when it has ended\n"
    assert repair(clone) == [".dvc/tmp/rwlock was damaged: removed"]
