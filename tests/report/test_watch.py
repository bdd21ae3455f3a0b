"""What `stages.watch` shows of a run, from the files that the run writes."""

import json
import os
import re
from pathlib import Path

import pytest

from nanogpt.report.watch import find_run, watch
from nanogpt.runtime import locks
from nanogpt.runtime.errors import UserError
from nanogpt.runtime.workdir import DONE

HEADER = "step,train_loss,lr,max_steps,tokens_per_s,seconds_left,peak_mib\n"
ROWS = "10,6.5,0.001,,,,\n20,nan,0.001,400,1000,900,500\n30,2.5,0.001,400,1234,7300,512\n"


def a_run(name: str = "pretrain/base-1", rows: str = ROWS, age: float = 0) -> Path:
    folder = Path(".work", name)
    folder.mkdir(parents=True)
    (folder / "train.csv").write_text(HEADER + rows)
    (folder / "val.csv").write_text("step,val_loss\n10,3.25\n20,2.75\n30,2.875\n")
    now = (folder / "train.csv").stat().st_mtime
    os.utime(folder / "train.csv", (now - age, now - age))
    return folder


@pytest.fixture
def shown(inside, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "90")
    monkeypatch.setenv("LINES", "30")

    def show(folder: Path | None = None) -> str:
        watch(folder, once=True)
        return capsys.readouterr().out

    return show


def test_a_run_that_goes_on(shown):
    folder = a_run(rows=ROWS + "40,2.4,0.0")  # the last line is being written
    (folder / "samples.jsonl").write_text(json.dumps({"step": 20, "prompt": "Once", "text": " up\non"}) + '\n{"st')
    with locks.hold_folder(folder):
        text = shown()
    first, second, third, *chart = text.splitlines()
    assert first == "pretrain, running (.work/pretrain/base-1)"
    assert f"{second} {third}" == (
        "step 30 of 400, loss 2.500, validation 2.875 (best 2.750 at step 20), 1,234 tokens/s, 2 h 2 min left, 512 MiB"
    )
    assert chart[-1] == "after 20 steps: Once| up on"
    assert len(chart) + 3 == 30 and max(map(len, chart)) == 90
    labels = [float(label) for label in re.findall(r"^ *([\d.]+)┤", text, re.MULTILINE)]
    assert labels[0] == 6.5 and labels[-1] == 2.5 and labels[2] == pytest.approx((6.5 * 2.5) ** 0.5, rel=0.01)


def test_a_run_that_was_stopped_and_one_that_is_done(shown):
    folder = a_run()
    assert "pretrain, stopped (" in shown() and " left" not in shown()
    (folder / "step-000000030-0.pt").touch()
    assert "pretrain, stopped; the same command resumes it (" in shown()
    (folder / DONE).write_text("dvc.lock")
    assert "pretrain, finished" in shown()


def test_a_run_without_a_step_yet(shown):
    folder = a_run(rows="")
    assert "no step logged yet" in shown()
    for name in ("train.csv", "val.csv"):  # while it measures its speed, or scores the model that it adapts
        (folder / name).unlink()
        with locks.hold_folder(folder):
            assert "pretrain, running (.work/pretrain/base-1)\nno step logged yet" in shown()


def test_a_low_and_narrow_terminal(shown, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    folder = a_run()
    (folder / "samples.jsonl").write_text(
        json.dumps({"step": 20, "prompt": "Once", "text": " \x1b[31mred" * 40}) + "\n"
    )
    lines = shown().splitlines()
    assert len(lines) == 30 and max(map(len, lines[1:])) == 40
    assert lines[-5].startswith("after 20 steps: Once| �[31mred") and lines[-1].endswith(" …")
    monkeypatch.setenv("LINES", "12")
    assert len(shown().splitlines()) == 12 and "Once" not in shown()


def test_what_is_left_in_metrics(shown):
    for folder in (Path("metrics"), Path("models/own")):
        folder.mkdir(parents=True)
        (folder / "lora-finetune-train.csv").write_text("step,train_loss,lr\n5,2.0,0.1\n10,1.0,0.0\n")
        (folder / "lora-finetune-val.csv").write_text("step,val_loss\n")
        figures = {"tokens_per_s": 0.0 if folder.name == "own" else 900.0, "peak_mib": 300.0, "wall_s": 100.2}
        (folder / "lora-finetune.json").write_text(json.dumps(figures))
    assert "lora-finetune, finished (metrics)\nstep 10, loss 1.000, 900 tokens/s, 100 s in all, 300 MiB\n" in shown()
    assert "finished (models/own)\nstep 10, loss 1.000, 100 s in all, 300 MiB\n" in shown(Path("models/own"))


def test_the_run_that_goes_on_comes_before_newer_ones(inside):
    old = a_run("pretrain/old", age=100)
    new = a_run("lora-finetune/new")
    assert find_run(None).folder == new
    with locks.hold_folder(old):
        assert find_run(None).folder == old
    assert find_run(old).folder == old
    with locks.hold_folder(old), locks.hold_folder(new):  # of two, the one that began later
        os.utime(old / "train.csv")
        os.utime(old / "lock", (1, 1))
        assert find_run(None).folder == new


def test_where_there_is_no_run(inside):
    with pytest.raises(UserError, match=r"^no run yet: neither in \.work nor in metrics; `dvc repro` makes one$"):
        find_run(None)
    with pytest.raises(UserError, match=r"^nowhere: no curves of a run there; `dvc repro` makes one$"):
        find_run(Path("nowhere"))


def test_a_damaged_curve(shown):
    folder = a_run()
    for content in (b'step,val_loss\n1,"2\n3,4\n', b"step\n1\n", b"\xff\xfe\n"):
        (folder / "val.csv").write_bytes(content)
        with pytest.raises(UserError, match=r"val\.csv: damaged"):
            shown()
