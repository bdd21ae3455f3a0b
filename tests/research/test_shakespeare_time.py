"""A small program in nanoGPT's place, which checks what it is given and prints a log in its form; our runs are real."""

import json
import re
import shutil
from pathlib import Path

import pytest
from imports import ROOT
from ruamel.yaml import YAML

from nanogpt.pipeline.recipe import apply_recipe
from nanogpt.research import shakespeare
from nanogpt.runtime.errors import UserError

TEXT = "First Citizen: before we proceed any further, hear me speak.\n" * 3
PREPARE = "import pathlib; pathlib.Path('text').write_text(pathlib.Path('input.txt').read_text())"
TRAIN = """
import pathlib, sys
assert sys.argv[1] == "config/train_shakespeare_char.py" and "--max_iters=3" in sys.argv
assert pathlib.Path("data/shakespeare_char/text").read_text().startswith("0. First Citizen")
print("step 0: train loss 4.2000, val loss 4.2100")
for i in range(4):
    print(f"iter {i}: loss 2.0000, time {1000 * i}.50ms, mfu 0.10%")
print("step 3: train loss 1.7000, val loss 1.8800")
"""


@pytest.fixture
def peer(tmp_path):
    folder = tmp_path / "peer"
    (folder / "data" / "shakespeare_char").mkdir(parents=True)
    (folder / "data" / "shakespeare_char" / "prepare.py").write_text(PREPARE)
    (folder / "train.py").write_text(TRAIN)
    return folder


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with the recipe, made small, of the text of a file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shakespeare, "STEPS", 3)
    monkeypatch.setitem(shakespeare.DOCUMENTED, "max_iters", 3)
    lines = "\n".join(json.dumps({"text": f"{i}. {TEXT}"}) for i in range(20))
    (tmp_path / "text.jsonl").write_text(lines)
    (tmp_path / ".work").mkdir()
    yaml = YAML()
    shutil.copytree(ROOT / "recipes", "recipes")
    shutil.copytree(ROOT / "data" / "own", "data/own")
    shutil.copy(ROOT / "params.yaml", ".")
    apply_recipe("shakespeare-quick")
    content = yaml.load(Path("params.yaml"))
    content["data"]["pretrain"] |= {"source": "files", "path": "text.jsonl", "val_fraction": 0.1}
    content["tokenizer"]["kind"] = "char"
    content["train"] |= {"max_steps": 4, "warmup_steps": 1, "batch_size": 2, "compile": "off"}
    yaml.dump(content, Path("params.yaml"))


def test_times_and_losses(peer, project, monkeypatch):
    monkeypatch.setattr(shakespeare, "TARGET", 9.0)
    found = shakespeare.compare_times(peer, [1, 2])
    assert (found["nanogpt_seconds"], found["nanogpt_val_nats"]) == (6.002, 1.88)
    assert 0 < found["time_to_1886_over_nanogpt"] < 20 and found["time_to_1886_over_nanogpt_ci95"] > 0
    assert 1 < found["val_nats"] < 5
    assert not (peer / "data" / "shakespeare_char" / "input.txt").exists()


def test_a_run_that_does_not_reach_the_loss(peer, project, monkeypatch):
    monkeypatch.setattr(shakespeare, "TARGET", 0.5)
    with pytest.raises(UserError, match=r"^validation loss \d\.\d+ is above 0\.5; train for more steps"):
        shakespeare.compare_times(peer, [1, 2])


@pytest.mark.parametrize(("target", "reached"), [(9.0, True), (0.5, False)])
def test_a_run_alone(project, monkeypatch, target, reached):
    monkeypatch.setattr(shakespeare, "GPU_TARGET", target)
    found = shakespeare.train_best(seed=1)
    assert 1 < found["best_val_nats"] < 5
    assert ("minutes_to_14697" in found) == reached
    assert 0 < found.get("minutes_to_14697", 0.1) < 2


@pytest.mark.parametrize("name", ["train.py", "data/shakespeare_char/prepare.py"])
def test_a_folder_that_is_not_nanogpt(peer, project, name):
    (peer / name).unlink()
    with pytest.raises(UserError, match=rf"peer has no {name}; name a clone"):
        shakespeare.compare_times(peer, [1, 2])


def test_other_settings_than_characters(peer, project):
    shutil.copy(ROOT / "params.yaml", ".")
    with pytest.raises(UserError, match=r"run `python -m stages\.recipe shakespeare-quick` first"):
        shakespeare.compare_times(peer, [1, 2])


@pytest.mark.parametrize(
    ("program", "message"),
    [("print('iter 1: loss 2, time 3.00ms')", "has 1 steps in place of 4"), ("1 / 0", r"train\.py failed: .*Zero")],
)
def test_another_program(peer, project, program, message):
    (peer / "train.py").write_text(program)
    with pytest.raises(UserError, match=re.compile(message, re.DOTALL)):
        shakespeare.compare_times(peer, [1, 2])
