"""States on the disk: the last two undamaged ones, whatever happens to the disk."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from killed import assert_same, killed_at, run

from nanogpt.runtime.checksums import sha256
from nanogpt.runtime.errors import UserError
from nanogpt.training import saved_states
from nanogpt.training.saved_states import SavedStates

pytestmark = pytest.mark.usefixtures("inside")


def test_the_last_two_states_are_kept_and_a_finished_run_leaves_nothing(tiny, training, monkeypatch, inside):
    with killed_at(9, monkeypatch):
        run(tiny(), training(max_steps=10), every=2)
    assert [path.name[5:14] for path in sorted(inside.glob(".work/pretrain/*/step-*"))] == ["000000006", "000000008"]
    run(tiny(), training(max_steps=10), every=2)
    assert list(inside.glob(".work/pretrain/*")) == []


def test_a_damaged_state_is_ignored(tiny, training, monkeypatch, inside, capsys):
    undisturbed = run(tiny(), training(max_steps=10))
    with killed_at(9, monkeypatch):
        run(tiny(), training(max_steps=10), every=2)
    newest = max(inside.glob(".work/pretrain/*/step-*"))
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    again = run(tiny(), training(max_steps=10), every=2)
    assert_same(again, undisturbed)
    assert "is damaged" in capsys.readouterr().err


def test_damaged_states_of_this_step_and_later_ones_are_removed(tmp_path):
    made = SavedStates(tmp_path)
    made.save(2, {"step": 2})
    bad = [tmp_path / f"step-{4:09}-{letter * 64}.pt" for letter in "0f"]
    bad.append(tmp_path / f"step-{6:09}-{'0' * 64}.pt")
    for path in bad:
        path.write_bytes(b"damaged")
    path = made.save(4, {"step": 4})
    assert made.newest() == (4, path) and made.load() == {"step": 4}
    assert not any(path.exists() for path in bad)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_state_that_cannot_be_read_does_not_start_the_run_afresh(tiny, training, monkeypatch, inside):
    with killed_at(9, monkeypatch):
        run(tiny(), training(max_steps=10), every=2)
    newest = max(inside.glob(".work/pretrain/*/step-*"))
    with monkeypatch.context() as patch:
        real = sha256
        patch.setattr(saved_states, "sha256", lambda path: real(Path("/nowhere") if path.name == newest.name else path))
        with pytest.raises(UserError, match=r"step-000000008-.* cannot be read \(No such file.*; run this again"):
            run(tiny(), training(max_steps=10), every=2)
    assert newest.exists()


def test_a_full_disk_keeps_the_state_before(tiny, training, monkeypatch, inside):
    settings = training(max_steps=10)
    undisturbed = run(tiny(), settings)
    saved, real = [], os.fsync

    def full(fd):
        saved.append(fd)
        if len(saved) >= 7:  # inputs, three files of the log, two states
            raise OSError(28, "No space left on device")
        return real(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        message = r"the state after 6 steps \(\d+ MiB\) cannot be saved: No space left on device, .* MiB are free; "
        with pytest.raises(UserError, match=message + "the state after 4 steps is kept; make room and run the same"):
            run(tiny(), settings, every=2)
    (folder,) = inside.glob(".work/pretrain/*")
    names = sorted(path.name[:14] for path in folder.iterdir())
    log = ["samples.jsonl", "train.csv", "val.csv"]
    assert sorted(names) == sorted(["inputs.json", "lock", "step-000000002", "step-000000004", *log])
    assert_same(run(tiny(), settings, every=2), undisturbed)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_torch_s_error_of_a_full_disk_is_the_system_s():
    with open("/dev/full", "wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        saved_states._write({"a": torch.ones(9)}, file)


def test_too_little_space_is_known_before_the_run(tiny, training, monkeypatch):
    total, used, _ = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(total, used, 50_000))
    needed = f"{(3 * 3 + 1) * sum(p.nbytes for p in tiny().parameters()) / 2**20:,.0f}"
    with pytest.raises(UserError, match=rf"this run needs {needed} MiB for its saved states and its result"):
        run(tiny(), training())


def test_a_work_folder_that_cannot_be_written(tiny, training, inside):
    (inside / ".work").write_text("a file")
    with pytest.raises(UserError, match=r"\.work: cannot be written \(.*\); make room there"):
        run(tiny(), training())
