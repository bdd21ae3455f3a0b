from pathlib import Path

import pytest
import torch
from adapters import SHAPE, settings
from sampling_settings import PLAIN

from nanogpt.checkpoint.folder import save_checkpoint
from nanogpt.evaluation.side_by_side import compare_models
from nanogpt.inference.settings import SampleSettings
from nanogpt.lora import finetune as module
from nanogpt.lora.finetune import finetune
from nanogpt.runtime.errors import UserError


@pytest.fixture
def project(inside, tiny, byte, write_bins) -> Path:
    save_checkpoint("models/pretrain", tiny("optimized", **SHAPE), byte)
    for role in ("pretrain", "finetune"):
        write_bins(inside / "data" / role, byte)
    return inside


def test_scores_before_and_after_are_alike_and_those_of_the_sample_stage(project, training, monkeypatch):
    """In fp32 with the threads and kernels of training, although it trains in bf16."""
    conditions, score = [], module.score_domains

    def noted(*arguments):
        kernels = torch.backends.mkldnn.matmul.fp32_precision
        conditions.append((torch.get_num_threads(), kernels, torch.are_deterministic_algorithms_enabled()))
        return score(*arguments)

    monkeypatch.setattr(module, "score_domains", noted)
    torch.set_num_threads(2)
    lora = settings()
    metrics = finetune(1, lora, lora.training(training(dtype="bfloat16", threads=1)))
    assert conditions[0] == conditions[1] and conditions[0][0] == 1
    chosen = SampleSettings(**PLAIN | {"max_tokens": 1}, dtype="auto", prompts=["A"])
    _, figures = compare_models("models/pretrain", "models/lora", None, chosen, 1)
    for when, model in (("before", "pretrained"), ("after", "adapted")):
        for domain, found in metrics[when].items():
            assert found == pytest.approx(figures[model][domain], rel=1e-6, abs=1e-7), (when, domain)
    assert metrics["val"]["bpb"] == metrics["after"]["finetune"]["bpb"]


def test_replay_keeps_the_first_domain(inside, tiny, byte, write_bins, training):
    save_checkpoint("models/pretrain", tiny("optimized", **SHAPE), byte)
    for role, text in (("pretrain", "abcabcabc "), ("finetune", "xyzzyx xy ")):
        write_bins(inside / "data" / role, byte, texts=[text * n for n in range(2, 12)])
    after = {}
    for replay in (0.0, 0.5):
        lora = settings(replay=replay, max_steps=40)
        found = finetune(1, lora, lora.training(training()), out=f"out/{replay}", metrics_folder=f"out/{replay}")
        after[replay] = {domain: figures["bpb"] for domain, figures in found["after"].items()}
    assert after[0.5]["pretrain"] < 0.7 * after[0.0]["pretrain"]
    assert after[0.0]["finetune"] < after[0.5]["finetune"] < 1.5 * after[0.0]["finetune"]


def test_text_that_is_not_known_cannot_be_replayed(project, training):
    lora = settings(replay=0.1)
    with pytest.raises(UserError, match=r"^lora\.replay = 0\.1: .* not known; name its bins with --first-domain"):
        finetune(1, lora, lora.training(training()), first_domain=None)
    assert not Path("models/lora").exists()
