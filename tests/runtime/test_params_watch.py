import os
import subprocess
import sys

import pytest
from imports import ROOT
from ruamel.yaml import YAML

from nanogpt.runtime import params_watch
from nanogpt.runtime.errors import UserError

LOCK = YAML(typ="safe").load(ROOT / "dvc.lock")["stages"]
END = """
from pathlib import Path
from nanogpt.runtime import params, process
from nanogpt.train import TrainSettings
def main():
    params.load(seed=int, train=TrainSettings)
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace({old!r}, {new!r}))
    print("done")
process.run_stage(main)
"""


@pytest.mark.parametrize("stage", LOCK)
def test_the_settings_are_those_that_dvc_recorded(stage, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = params_watch.recorded_values(stage)
    assert {key: value for key, value in found.items() if value is not None} == {
        key: value for key, value in LOCK[stage]["params"]["params.yaml"].items() if value is not None
    }
    assert len(found) >= 2


@pytest.mark.parametrize("stage", ["pretrain", "somebody-elses", None])
@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("\nseed: 1", "\nseed: 2", "seed"),
        ("grad_accum: 1", "grad_accum: 2", "train.grad_accum"),
        ("checkpoint_every: 2m", "checkpoint_every: 3m", ""),  # which decides nothing
        ("temperature: ", "temperature: 1", ""),  # another stage's
        ("\nseed: 1", "\nseed: 1 # my favourite", ""),
    ],
)
def test_what_changed_while_a_stage_ran_is_told_at_its_end(tmp_path, stage, old, new, key):
    """DVC would record the settings as they are then, and take the result for theirs."""
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    assert old in (tmp_path / "params.yaml").read_text()
    env = {name: value for name, value in os.environ.items() if name != "DVC_STAGE"} | {"PYTHONPATH": str(ROOT)}
    env |= {"DVC_STAGE": stage} if stage else {}
    code = END.format(old=old, new=new)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout == "done\n"
    if key and stage == "pretrain":
        told = f"error: params.yaml: {key} changed while this stage ran, whose result is that of the settings before; "
        assert done.stderr.startswith(told) and done.returncode == 1
    else:
        assert (done.returncode, done.stderr) == (0, "")


def test_settings_that_can_no_longer_be_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").write_bytes((ROOT / "dvc.yaml").read_bytes())
    with pytest.raises(UserError, match=r"params\.yaml cannot be read"):
        params_watch.recorded_values("pretrain")
    (tmp_path / "params.yaml").write_text("seed: [1")
    with pytest.raises(UserError, match=r"params\.yaml cannot be read, or is no YAML"):
        params_watch.recorded_values("pretrain")
