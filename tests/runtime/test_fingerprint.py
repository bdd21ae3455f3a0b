"""The fingerprint of a run: another setting, text, code or library is another run."""

import importlib.metadata
import json
import shutil
import subprocess
import sys

import pytest
from imports import ROOT
from killed import killed_at, run

from nanogpt.runtime.errors import UserError
from nanogpt.runtime.fingerprint import fingerprint_program
from nanogpt.training import resume

pytestmark = pytest.mark.usefixtures("inside")


def test_a_run_of_other_inputs_is_not_resumed(tiny, training, monkeypatch, inside, capsys):
    with killed_at(5, monkeypatch):
        run(tiny(), training(max_steps=6), every=1, inputs={"train": {"lr": 1}, "data": ["a"]})
    capsys.readouterr()
    run(tiny(), training(max_steps=6), every=1, inputs={"train": {"lr": 2}, "data": ["a"]})
    err = capsys.readouterr().err
    assert "resuming" not in err
    assert "starting afresh: " in err and "is after 5 steps of another run (train.lr)" in err
    run(tiny(), training(max_steps=6), every=1, inputs={"train": {"lr": 1}, "data": ["a"]})
    assert "resuming after step 5" in capsys.readouterr().err


def test_edits_in_rooms_that_compute_no_result_change_no_fingerprint(tmp_path):
    """As a stage in a process of its own sees them; an edit of the training code changes the fingerprint."""
    shutil.copytree(ROOT / "nanogpt", tmp_path / "nanogpt")
    shutil.copytree(ROOT / "stages", tmp_path / "stages")
    stage = tmp_path / "stages" / "some.py"
    stage.write_text(
        "import json\nfrom nanogpt.training import pretrain\n"
        "from nanogpt.runtime.fingerprint import fingerprint_program\nprint(json.dumps(fingerprint_program()))\n"
    )

    def fingerprint() -> dict:
        done = subprocess.run([sys.executable, "-m", "stages.some"], cwd=tmp_path, capture_output=True, check=True)
        return json.loads(done.stdout)

    before = fingerprint()
    assert {"nanogpt.training.loop", "nanogpt.model.gpt2", "nanogpt.data.tokens.batches"} <= before["code"].keys()
    assert not any(name.startswith(("nanogpt.lora", "nanogpt.runtime")) for name in before["code"])
    assert before["libraries"] == {name: importlib.metadata.version(name) for name in ("numpy", "peft", "torch")}
    for path in ("runtime/progress.py", "benchmark/settings.py", "training/optimizer.py", "../stages/some.py"):
        with (tmp_path / "nanogpt" / path).open("a") as file:
            file.write("# edited\n")
    after = fingerprint()["code"]
    assert [name for name in after if after[name] != before["code"][name]] == ["nanogpt.training.optimizer"]


def test_code_that_changes_under_a_run_ends_it(tiny, training, inside, monkeypatch):
    """Under DVC, which would record the new code for it; the last state is kept: the edit may be undone."""
    monkeypatch.setenv("DVC_ROOT", str(inside))
    found = fingerprint_program()
    with monkeypatch.context() as patch:
        edited = found | {"code": found["code"] | {"nanogpt.training.optimizer": "edited"}}
        programs = iter([found, edited])
        patch.setattr(resume, "fingerprint_program", lambda: next(programs))
        with pytest.raises(UserError, match=r"^nanogpt\.training\.optimizer changed while this stage ran"):
            run(tiny(), training(max_steps=4))
    (folder,) = inside.glob(".work/pretrain/*")
    assert not (folder / "done").exists()
    assert list(folder.glob("step-000000004-*"))
