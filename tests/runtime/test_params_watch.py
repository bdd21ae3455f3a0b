import os
import subprocess
import sys

import pytest
from imports import ROOT

from nanogpt.runtime import params_watch

END = """
from pathlib import Path
from nanogpt.runtime import params, process
def main():
    params.load(seed=int)
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace({old!r}, {new!r}))
    print("done")
process.run_stage(main)
"""


@pytest.mark.slow
def test_the_settings_are_those_that_dvc_records(monkeypatch):
    import dvc.api

    monkeypatch.chdir(ROOT)
    for stage in ("prepare@finetune", "pretrain"):
        nested = {}
        for key, value in params_watch.recorded_values(stage).items():
            *sections, name = key.split(".")
            section = nested
            for part in sections:
                section = section.setdefault(part, {})
            section[name] = value
        assert nested == dvc.api.params_show(stages=stage)


@pytest.mark.parametrize(
    ("stage", "old", "new", "key"),
    [
        ("pretrain", "grad_accum: 1", "grad_accum: 2", "train.grad_accum"),
        ("pretrain", "checkpoint_every: 2m", "checkpoint_every: 3m", ""),  # which changes no result
        (None, "\nseed: 1", "\nseed: 2", ""),
    ],
)
def test_a_change_while_a_stage_runs_is_an_error_at_its_end(tmp_path, stage, old, new, key):
    """DVC would record the settings as they are then, and take the result for theirs."""
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    assert old in (tmp_path / "params.yaml").read_text()
    env = {name: value for name, value in os.environ.items() if name != "DVC_STAGE"} | {"PYTHONPATH": str(ROOT)}
    env |= {"DVC_STAGE": stage} if stage else {}
    code = END.format(old=old, new=new)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout == "done\n"
    assert done.returncode == bool(key)
    assert done.stderr.startswith(f"error: params.yaml: {key} changed while this stage ran") if key else not done.stderr
