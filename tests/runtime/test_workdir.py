"""Runs that are done stay until DVC has written their results down; what is left over is named."""

import os
import time

import pytest
from killed import Killed, assert_same, killed_at, run, stop

from nanogpt.runtime import locks, process
from nanogpt.runtime.workdir import list_leftovers, remove_committed_runs

pytestmark = pytest.mark.usefixtures("inside")


@pytest.fixture
def finished(tiny, training, monkeypatch, inside):
    """The folder of a run that a stage under DVC has ended, before DVC has committed it."""
    monkeypatch.setenv("DVC_ROOT", str(inside))
    whole = run(tiny(), training(max_steps=4))
    (folder,) = inside.glob(".work/pretrain/*")
    return folder, whole


def test_what_dvc_has_not_committed_yet_is_kept(tiny, training, finished, inside, capsys):
    folder, whole = finished
    assert (folder / "done").exists()
    (inside / "dvc.lock").write_text("of an earlier stage")
    os.utime(inside / "dvc.lock", (1, 1))
    remove_committed_runs()
    assert_same(run(tiny(), training(max_steps=4)), whole)
    assert "going on after step 4" in capsys.readouterr().err


def test_what_dvc_has_committed_is_removed(finished, inside):
    folder, _ = finished
    (inside / "dvc.lock").write_text("with this stage in it")
    os.utime(inside / "dvc.lock", (time.time() + 5, time.time() + 5))
    with locks.hold_folder(folder):
        remove_committed_runs()
        assert folder.exists()
    remove_committed_runs()
    assert not folder.exists()


def test_what_another_experiment_commits_says_nothing_of_this_one(finished, inside, monkeypatch):
    """Its dvc.lock lies in a copy of its own, and both share .work. What is gone with its copy has ended."""
    folder, _ = finished
    later = time.time() + 5
    (inside / "copy").mkdir()
    (inside / "copy/dvc.lock").write_text("with another stage in it")
    os.utime(inside / "copy/dvc.lock", (later, later))
    monkeypatch.chdir(inside / "copy")
    remove_committed_runs()
    assert folder.exists()
    (folder / "done").write_text(str(inside / "gone/dvc.lock"))
    remove_committed_runs()
    assert not folder.exists()


def test_a_run_whose_settings_changed_is_not_done(tiny, training, inside, monkeypatch):
    """So that no dvc.lock that is written then has it removed."""
    monkeypatch.setenv("DVC_ROOT", str(inside))
    process.add_final_check(stop)
    with pytest.raises(Killed):
        run(tiny(), training(max_steps=4))
    (folder,) = inside.glob(".work/pretrain/*")
    assert not (folder / "done").exists()


def test_old_leftovers_are_named(tiny, training, monkeypatch, inside, capsys):
    with killed_at(5, monkeypatch):
        run(tiny(), training(max_steps=6), every=2)
    (folder,) = inside.glob(".work/pretrain/*")
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert list_leftovers(days=1) == []
    for path in [*folder.iterdir(), folder]:
        os.utime(path, (time.time() - 20 * 86400,) * 2)
    ((place, n_bytes, age),) = list_leftovers(days=14)
    assert place.samefile(folder) and n_bytes == size and 19.9 < age < 20.1
    run(tiny("optimized"), training(max_steps=1, warmup_steps=0), inputs={"another": 1})
    assert ".work holds runs of more than 14 days ago" in capsys.readouterr().err
