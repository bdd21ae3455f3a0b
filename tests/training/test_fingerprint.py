"""What a run is made of: another setting, text, code or library is another run."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from imports import ROOT
from killed import killed_at, run

from nanogpt.runtime.errors import UserError
from nanogpt.training import fingerprint
from nanogpt.training.fingerprint import fingerprint_program

pytestmark = pytest.mark.usefixtures("inside")


def test_what_the_run_is_made_of_keeps_it_apart(tiny, training, monkeypatch, inside, capsys):
    with killed_at(5, monkeypatch):
        run(tiny(), training(max_steps=6), every=1, inputs={"train": {"lr": 1}, "data": ["a"]})
    capsys.readouterr()
    run(tiny(), training(max_steps=6), every=1, inputs={"train": {"lr": 2}, "data": ["a"]})
    err = capsys.readouterr().err
    assert "going on" not in err
    assert "starting afresh: " in err and "is after 5 steps of another run (train.lr)" in err
    run(tiny(), training(max_steps=6), every=1, inputs={"train": {"lr": 1}, "data": ["a"]})
    assert "going on after step 5" in capsys.readouterr().err


def test_code_and_libraries_are_part_of_a_fingerprint(tmp_path):
    """As a stage in a process of its own sees them."""
    shutil.copytree(ROOT / "nanogpt", tmp_path / "nanogpt")
    stage = "from nanogpt import train\nfrom nanogpt.resume.fingerprint import program\nimport json\n"
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "some.py").write_text(stage + "print(json.dumps(program()))\n")

    def found() -> dict:
        done = subprocess.run([sys.executable, "-m", "stages.some"], cwd=tmp_path, capture_output=True, check=True)
        return json.loads(done.stdout)

    before = found()
    assert {"__main__", "nanogpt.train", "nanogpt.model.gpt2", "nanogpt.training.optimizer"} <= before["code"].keys()
    assert "nanogpt.lora" not in before["code"]
    assert before["libraries"]["torch"] == torch.__version__
    with (tmp_path / "nanogpt" / "optim.py").open("a") as file:
        file.write("# changed\n")
    (tmp_path / "stages" / "some.py").write_text(stage + "print(json.dumps(program()))  # changed\n")
    after = found()
    assert {name for name in before["code"] if before["code"][name] != after["code"][name]} == {
        "__main__", "nanogpt.training.optimizer",
    }  # fmt: skip


def test_the_program_here():
    found = fingerprint_program()
    assert "nanogpt.train" in found["code"] and set(found["libraries"]) == {"numpy", "peft", "torch"}


def test_code_that_changes_under_a_run_ends_it(tiny, training, inside, monkeypatch):
    """Under DVC, which would take the result for one of the new code; put back, it goes on from its last step."""
    monkeypatch.setenv("DVC_ROOT", str(inside))
    found, real = fingerprint_program(), fingerprint_program
    with monkeypatch.context() as patch:
        edited = found | {"code": found["code"] | {"nanogpt.training.optimizer": "edited"}}
        programs = iter([found, edited])
        patch.setattr(fingerprint, "fingerprint_program", lambda: next(programs))
        with pytest.raises(UserError, match=r"^nanogpt\.optim changed while this stage ran"):
            run(tiny(), training(max_steps=4))
    assert real() == found
    (folder,) = inside.glob(".work/pretrain/*")
    assert not (folder / "done").exists()
    assert list(folder.glob("step-000000004-*"))
