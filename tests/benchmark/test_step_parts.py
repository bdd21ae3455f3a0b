from dataclasses import replace

import pytest
import torch
from benchmark_shapes import SETTINGS, count_flops
from torch import nn

from nanogpt.benchmark import step_parts
from nanogpt.model.build import model_flops
from nanogpt.model.loss import IDS_AT_ONCE

C, TOKENS = 32, 48
INSIDE = {
    "base": {"embedding": ["wte", "wpe"], "attention": [".ln_1.", ".attn."], "mlp": [".ln_2.", ".mlp."]},
    "optimized": {
        "embedding": ["embed_tokens"],
        "attention": [".input_layernorm.", ".self_attn."],
        "mlp": [".post_attention_layernorm.", ".mlp."],
    },
}


@pytest.fixture
def built(monkeypatch) -> list[nn.Module]:
    """The models that are built in the test."""
    models, build_model = [], step_parts.build_model

    def build(config):
        models.append(build_model(config))
        return models[-1]

    monkeypatch.setattr(step_parts, "build_model", build)
    return models


@pytest.mark.parametrize("arch", ["base", "optimized"])
def test_every_part_goes_backward_through_its_own_weights(arch, built):
    steps = step_parts.build_parts("it.", arch, "bfloat16", SETTINGS)
    model, _ = built
    reached = set()
    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: reached.add(name))
    for part, names in (INSIDE[arch] | {"head_loss": ["lm_head"]}).items():
        reached.clear()
        steps[f"it.{part}"]()
        assert reached == {name for name, _ in model.named_parameters() if any(inside in name for inside in names)}
        assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("arch", ["base", "optimized"])
def test_parts_add_up_to_the_flops_of_a_step(arch):
    settings = replace(SETTINGS, vocab_size=IDS_AT_ONCE + 100)
    counts = {name: count_flops(step) for name, step in step_parts.build_parts("", arch, "bfloat16", settings).items()}
    assert counts["embedding"] == counts["optimizer"] == 0
    assert counts["head_loss"] == 6 * TOKENS * C * settings.vocab_size
    assert sum(counts.values()) == model_flops(settings.config(arch), TOKENS)


def test_the_optimizer_updates_a_whole_model(built):
    step = step_parts.build_parts("", "optimized", "float32", SETTINGS)["optimizer"]
    model = built[-1]
    before = [parameter.detach().clone() for parameter in model.parameters()]
    step()
    assert not any(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))
    norm = torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).norm()
    assert norm.item() == pytest.approx(1, rel=1e-3)  # clipped, from some hundred


def test_products_are_the_three_of_the_head():
    vocab_size = 2 * IDS_AT_ONCE + 1
    steps = step_parts.build_head_products("three", "bfloat16", replace(SETTINGS, vocab_size=vocab_size))
    assert count_flops(steps["three"]) == 3 * 2 * TOKENS * C * vocab_size


def test_a_square_product_in_each_dtype():
    steps = step_parts.build_square_products({"fp32": "float32", "bf16": "bfloat16"}, SETTINGS, 40)
    assert {name: count_flops(step) for name, step in steps.items()} == {"fp32": 2 * 40**3, "bf16": 2 * 40**3}
    assert {name: step().dtype for name, step in steps.items()} == {"fp32": torch.float32, "bf16": torch.bfloat16}
