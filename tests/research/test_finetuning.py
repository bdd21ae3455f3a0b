from dataclasses import replace
from pathlib import Path

import pytest
from adapters import settings

from nanogpt.benchmark.settings import BenchmarkSettings
from nanogpt.checkpoint.folder import save_checkpoint
from nanogpt.lora.finetune import finetune
from nanogpt.research import finetuning


@pytest.fixture
def project(inside, tiny, byte, write_bins) -> Path:
    save_checkpoint("models/pretrain", tiny(tie_embeddings=True), byte)
    for role, text in (("pretrain", "abcabcabc "), ("finetune", "xyzzyx xy ")):
        write_bins(inside / "data" / role, byte, texts=[text * n for n in range(2, 12)])
    return inside


def test_each_kind_with_each_seed(project, training):
    rows = finetuning.compare_kinds(settings(target_modules="all"), training(), [1, 2], None)
    assert rows.keys() == finetuning.KINDS.keys()
    assert {row["steps"] for row in rows.values()} == {12} and {row["steps_ci95"] for row in rows.values()} == {0}
    assert len({row["finetune_bpb"] for row in rows.values()}) == len(rows)  # each is another training
    assert all(row["finetune_bpb_ci95"] > 0 for row in rows.values())
    assert not list(Path("models").glob("lora"))


def test_the_curve_of_replay(project, training):
    lora = settings(target_modules="all", replay=0.4, max_steps=40)
    found = finetuning.measure_replay(lora, training(), [1, 2])
    curve = found["curve"]
    assert list(curve) == ["0.0", "0.05", "0.125", "0.25", "0.4"]
    assert curve["0.4"]["pretrain_change"] < curve["0.0"]["pretrain_change"]
    ratio = curve["0.4"]["finetune_bpb"] / curve["0.0"]["finetune_bpb"]
    assert found["adapting_over_without"] == pytest.approx(ratio, rel=0.01)
    header, *lines = finetuning.CURVE.read_text().splitlines()
    assert header == "replay,finetune_bpb,pretrain_change" and [float(line.split(",")[0]) for line in lines][-1] == 0.4


def test_the_merges_of_the_pipelines_adapter(project, training):
    lora = settings(target_modules="all", lr=0.1)
    finetune(1, lora, lora.training(training()))
    found = finetuning.compare_merges()
    assert len(found) == 2 and all(0 < difference < 1e-4 for difference in found.values())


def test_memory_of_both(project):
    shape = BenchmarkSettings(1, 2, 1, 16, 32, 320, 2, 3, "float32", "off", 1)
    found = finetuning.measure_memory(replace(settings(), target_modules="all"), shape)
    assert found.keys() == {"default_targets_mib", "full_mib", "default_targets_ms", "full_ms"}
    assert all(figure > 0 for figure in found.values())
