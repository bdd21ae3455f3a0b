"""A stand-in replaces the process that trains; only the last test trains."""

import copy
import json
import math
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from imports import ROOT
from ruamel.yaml import YAML

import stages.seeds
from nanogpt.evaluation import seeds
from nanogpt.evaluation.seeds import Group, compare_seeds, compute_figures
from nanogpt.runtime.errors import UserError
from nanogpt.runtime.fingerprint import fingerprint_program

STEPS, TOKENS = 300, 32 * 256  # of params.yaml: batch_size, block_size
SPEED = {"base": 1000.0, "optimized": 1500.0}
LONGER = 452  # three runs of base at 900, 1000 and 1100 tokens a second take as long as these at 1400, 1500 and 1600
SHAPE = {"n_layer": 1, "n_head": 2, "n_kv_head": 1, "n_embd": 16, "block_size": 16}
SHORT = {"max_steps": 12, "batch_size": 2, "warmup_steps": 2, "eval_every": 6, "eval_batches": 1, "log_every": 4}


@dataclass
class Trainer:
    """Stands in for the process: notes what it is asked to train and writes an invented pretrain.json."""

    asked: list[tuple[str, int, int]] = field(default_factory=list)
    ends: dict[int, int] = field(default_factory=dict)  # number of the process -> status

    def launch(self, command: list[str]) -> int:
        assert command[:3] == [sys.executable, "-m", "stages.pretrain"]
        flags = dict(word.split("=") for word in command[3:-1])  # the last is --overwrite
        assert flags.keys() == {"--arch", "--seed", "--max-steps", "--data", "--out"}
        arch, seed, steps = flags["--arch"], int(flags["--seed"]), int(flags["--max-steps"])
        assert flags["--data"] == "data/pretrain"
        self.asked.append((arch, seed, steps))
        out = Path(flags["--out"])
        out.mkdir(exist_ok=True)
        (out / "model.safetensors").touch()
        if status := self.ends.pop(len(self.asked), 0):
            return status
        (out / "pretrain.json").write_text(json.dumps(result(arch, seed, steps)))
        return 0


def result(arch: str, seed: int, steps: int) -> dict:
    loss = {"base": 2.0, "optimized": 1.8}[arch] + 0.1 * seed - steps / 10_000 + 0.01 * (seed == 2)
    return {
        "val": {"loss_nats": loss, "bpb": loss / math.log(2) / 4},
        "tokens_per_s": SPEED[arch] + 100 * (seed - 2),
        "wall_s": 5.0,
    }


@pytest.fixture
def project(tmp_path, monkeypatch, write_bins, byte):
    """A folder outside DVC with settings and bins of bytes."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "data" / "own", tmp_path / "data" / "own")
    write_bins(tmp_path / "data" / "pretrain", byte, [f"once upon a time, {i}" for i in range(60)])
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path


@pytest.fixture
def trainer(project, monkeypatch) -> Trainer:
    stand_in = Trainer()
    monkeypatch.setattr(seeds, "launch_stage", stand_in.launch)
    return stand_in


def set_params(section: str, **values) -> None:
    yaml = YAML()
    document = yaml.load(Path("params.yaml"))
    document[section].update(values)
    yaml.dump(document, Path("params.yaml"))


def group(steps: int, losses: np.ndarray, speeds: np.ndarray) -> Group:
    pairs = zip(losses.tolist(), speeds.tolist(), strict=True)
    return Group(steps, [{"val": {"loss_nats": x, "bpb": x / 3}, "tokens_per_s": speed} for x, speed in pairs])


def test_figures_against_numpy():
    base, other = np.array([2.00, 2.11, 2.05]), np.array([1.80, 1.95, 1.82])
    speeds = np.array([900.0, 1000.0, 1100.0])
    groups = {"base": group(100, base, speeds), "equal_steps": group(50, other, speeds)}
    found = compute_figures(groups, [1, 2, 3], 64)
    row, t = found["equal_steps"], 4.30265
    assert row["seconds_ci95"] == pytest.approx(t * (50 * 64 / speeds).std(ddof=1) / np.sqrt(3), rel=1e-5)
    assert row["loss_nats"] == pytest.approx(other.mean())
    assert row["bpb_ci95"] == pytest.approx(t * other.std(ddof=1) / np.sqrt(3) / 3, rel=1e-5)
    change = other - base
    assert row["loss_nats_change"] == pytest.approx(change.mean())
    assert row["loss_nats_change_ci95"] == pytest.approx(t * change.std(ddof=1) / np.sqrt(3), rel=1e-5)
    assert row["change_percent"] == pytest.approx(100 * change.mean() / base.mean())
    assert row["by_seed"]["2"] == {"loss_nats": 1.95, "bpb": 0.65}


def test_a_series(trainer):
    page, found = compare_seeds("data/pretrain", range(1, 4), STEPS)
    pairs = [(arch, seed, 300) for seed in (1, 2, 3) for arch in ("base", "optimized")]
    assert trainer.asked == [*pairs, *(("optimized", seed, LONGER) for seed in (1, 2, 3))]
    assert [(name, row["steps"]) for name, row in found.items()] == [
        ("base", 300), ("equal_steps", 300), ("equal_time", LONGER)
    ]  # fmt: skip
    seconds = [STEPS * TOKENS / speed for speed in (900, 1000, 1100)]
    assert found["base"]["seconds"] == pytest.approx(np.mean(seconds))
    assert found["equal_time"]["loss_nats_change"] == pytest.approx(-0.2 - (LONGER - STEPS) / 10_000)
    assert "data/pretrain (test)" in page and f"| optimized, equal time | {LONGER} |" in page
    assert f"| 2.1733 ± {4.30265 * np.std([0.1, 0.21, 0.3], ddof=1) / math.sqrt(3):.4f} |" in page
    assert f"| optimized, equal steps | -0.2000 ± 0.0000 | {-0.2 / math.log(2) / 4:.4f} ± 0.0000 |" in page
    files = [path for path in Path(".work/seeds").rglob("*") if path.is_file()]
    assert [path.name for path in files] == ["pretrain.json"] * 9  # no models


@pytest.mark.parametrize(("status", "advice"), [(1, ""), (-9, r".*smaller train\.batch_size")])
def test_a_failed_series_continues(trainer, status, advice):
    trainer.ends = {4: status}
    message = rf"^optimized, seed 2, 300 steps: .* status {status}{advice}; .* continues from"
    with pytest.raises(UserError, match=message):
        compare_seeds("data/pretrain", [1, 2], STEPS)
    assert len(trainer.asked) == 4
    page, _ = compare_seeds("data/pretrain", [1, 2], STEPS)
    assert trainer.asked[4] == trainer.asked[3]
    assert len(trainer.asked) == len(set(trainer.asked)) + 1 == 7
    assert compare_seeds("data/pretrain", [1, 2], STEPS)[0] == page
    assert len(trainer.asked) == 7


def test_other_settings_text_or_code_start_another_series(trainer, project, write_bins, byte, monkeypatch):
    compare_seeds("data/pretrain", [1, 2], STEPS)
    set_params("sample", temperature=0.5)
    set_params("model", arch="optimized")  # both are trained
    compare_seeds("data/pretrain", [1, 2], STEPS)
    assert len(trainer.asked) == 6
    shutil.rmtree(project / "data" / "pretrain")
    write_bins(project / "data" / "pretrain", byte, [f"once upon a day, {i}" for i in range(60)])
    compare_seeds("data/pretrain", [1, 2], STEPS)
    assert len(trainer.asked) == 12
    program = fingerprint_program()
    for module, trained in [("nanogpt.evaluation.seeds", 12), ("nanogpt.training.optimizer", 18)]:
        program["code"][module] = "changed"
        monkeypatch.setattr(seeds, "fingerprint_program", lambda: copy.deepcopy(program))
        compare_seeds("data/pretrain", [1, 2], STEPS)
        assert len(trainer.asked) == trained
    set_params("train", lr=0.001)
    compare_seeds("data/pretrain", [1, 2], STEPS)
    assert len(trainer.asked) == 24


def test_settings_that_change_during_a_run(trainer, monkeypatch):
    """Nobody knows which of the two the run read: it does not count."""
    before = Path("params.yaml").read_text()

    def edited(command: list[str]) -> int:
        set_params("train", lr=0.001)
        return trainer.launch(command)

    compare_seeds("data/pretrain", [1, 2], STEPS)
    monkeypatch.setattr(seeds, "launch_stage", edited)
    with pytest.raises(UserError, match=r"^base, seed 3, 300 steps: train changed .*params\.yaml, data/pretrain or"):
        compare_seeds("data/pretrain", [1, 2, 3], STEPS)
    Path("params.yaml").write_text(before)
    monkeypatch.setattr(seeds, "launch_stage", trainer.launch)
    compare_seeds("data/pretrain", [1, 2, 3], STEPS)
    assert trainer.asked[6:8] == [("base", 3, 300), ("base", 3, 300)]


def test_mistakes_are_found_before_anything_is_trained(trainer):
    with pytest.raises(UserError, match=r"--max-steps 1: .* at least 2"):
        compare_seeds("data/pretrain", [1, 2], 1)
    with pytest.raises(UserError, match=r"data/none/tokenizer/tokenizer\.json does not exist"):
        compare_seeds("data/none", [1, 2], STEPS)
    Path(".work").touch()
    with pytest.raises(UserError, match=r"^\.work.* cannot be written"):
        compare_seeds("data/pretrain", [1, 2], STEPS)
    assert trainer.asked == []


def test_a_run_that_was_trained_before_a_kill_counts(trainer):
    trainer.ends = {3: 1}
    with pytest.raises(UserError):
        compare_seeds("data/pretrain", [1, 2], STEPS)
    (model,) = Path(".work/seeds").glob("base-2-*/model")
    (model / "pretrain.json").write_text(json.dumps(result("base", 2, STEPS)))
    compare_seeds("data/pretrain", [1, 2], STEPS)
    assert trainer.asked.count(("base", 2, STEPS)) == 1


def test_a_run_without_a_speed_does_not_count(trainer, monkeypatch):
    monkeypatch.setitem(SPEED, "base", 100.0)  # the first seed's is 0 then, as of a run that was interrupted each step
    with pytest.raises(UserError, match=r"^base, seed 1, 300 steps: it has no speed, .*; run it again"):
        compare_seeds("data/pretrain", [1, 2], STEPS)
    assert not list(Path(".work/seeds").rglob("pretrain.json"))


@pytest.mark.parametrize(("flags", "message"), [("--seeds 1", "at least 2"), ("--out a.txt", "ends in .md")])
def test_wrong_flags(flags, message, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["seeds.py", *flags.split()])
    with pytest.raises(SystemExit, match=f"^error: {flags}: .*{message}"):
        stages.seeds.main()


@pytest.mark.slow
def test_as_it_is_called(project):
    def stage(*flags: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-m", "stages.seeds", *flags], capture_output=True, text=True)

    set_params("model", **SHAPE)
    set_params("train", **SHORT, dtype="float32", compile="off", threads=1)
    first = stage("--seeds", "2", "--out", "reports/table.md")
    assert first.returncode == 0, first.stderr
    table = Path("reports/table.md").read_text() + "\n"
    assert first.stdout.endswith(table)  # after a line for each run
    found = json.loads(Path("reports/table.json").read_text())
    losses = [run["loss_nats"] for row in found.values() for run in row["by_seed"].values()]
    assert all(3 < loss < 7 for loss in losses) and len(set(losses)) > 3  # log(320) = 5.8, and hardly trained
    assert found["base"]["steps"] == found["equal_steps"]["steps"] == 12
    ratio = found["equal_steps"]["tokens_per_s"] / found["base"]["tokens_per_s"]
    assert found["equal_time"]["steps"] == pytest.approx(max(2, 12 * ratio), abs=0.51)
    again = stage("--seeds", "2")
    assert (again.stdout, again.stderr) == (table, "")  # nothing was trained
