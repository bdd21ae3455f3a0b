"""Folders of runs stay until DVC has recorded their results; old ones are listed."""

import os
import time

import pytest
from killed import Killed, stop

from nanogpt.runtime import locks, process
from nanogpt.runtime.workdir import list_leftovers, remove_committed_runs, warn_of_old_runs, work_folder
from nanogpt.training.resume import resumable_run

pytestmark = pytest.mark.usefixtures("inside")


def do_run() -> None:
    with resumable_run("pretrain", "test", {}, 10, {}, time.monotonic()):
        pass


@pytest.fixture
def finished(monkeypatch, inside):
    """The folder of a run that a stage under DVC has ended, before DVC has recorded it."""
    monkeypatch.setenv("DVC_ROOT", str(inside))
    do_run()
    (folder,) = inside.glob(".work/pretrain/*")
    return folder


def write_lock_file(path, time_of_write: float) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("stages")
    os.utime(path, (time_of_write, time_of_write))


def test_a_run_stays_until_dvc_has_recorded_it_and_no_process_holds_it(finished, inside):
    remove_committed_runs()
    write_lock_file(inside / "dvc.lock", 1)  # of an earlier stage
    remove_committed_runs()
    assert (finished / "done").exists()
    write_lock_file(inside / "dvc.lock", time.time() + 5)
    with locks.hold_folder(finished):
        remove_committed_runs()
        assert finished.exists()
    remove_committed_runs()
    assert not finished.exists()


def test_the_lock_file_of_another_experiment_does_not_count(finished, inside, monkeypatch):
    """It lies in a copy of its own, and both share .work. A run whose copy is gone is of no use."""
    write_lock_file(inside / "copy/dvc.lock", time.time() + 5)
    monkeypatch.chdir(inside / "copy")
    remove_committed_runs()
    assert finished.exists()
    (finished / "done").write_text(str(inside / "gone/dvc.lock"))
    remove_committed_runs()
    assert not finished.exists()


def test_a_run_whose_settings_changed_is_not_done(inside, monkeypatch):
    """So that a dvc.lock that is written later does not have it removed."""
    monkeypatch.setenv("DVC_ROOT", str(inside))
    process.add_final_check(stop)
    with pytest.raises(Killed):
        do_run()
    (folder,) = inside.glob(".work/pretrain/*")
    assert not (folder / "done").exists()


def test_old_leftovers_are_listed(inside, capsys):
    folder = work_folder("pretrain", "test", {})
    (folder / "state").write_bytes(b"x" * 1000)
    warn_of_old_runs()
    assert list_leftovers(days=1) == [] and capsys.readouterr().err == ""
    for path in [*folder.iterdir(), folder]:
        os.utime(path, (time.time() - 20 * 86400,) * 2)
    ((found, n_bytes, age),) = list_leftovers(days=14)
    assert found.samefile(folder) and n_bytes == 1000 and 19.9 < age < 20.1
    warn_of_old_runs()
    assert ".work holds runs and shards of more than 14 days ago" in capsys.readouterr().err


def test_shards_of_a_text_that_was_never_finished_are_listed(inside):
    """Not of today: no process holds them all."""
    shard = work_folder("prepare", "shards", {}) / "000000"
    shard.mkdir()
    (shard / "tokens.npy").write_bytes(b"x" * 500)
    assert list_leftovers() == []
    for path in (shard / "tokens.npy", shard, shard.parent):
        os.utime(path, (time.time() - 2 * 86400,) * 2)
    ((found, n_bytes, _),) = list_leftovers()
    assert found.samefile(shard.parent) and n_bytes >= 500
