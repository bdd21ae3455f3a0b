from collections import Counter
from dataclasses import replace

import pytest
import torch
from benchmark_shapes import SETTINGS
from step_parts_checks import PARTS, TOKENS, C, flops
from torch import nn

from nanogpt.benchmark import step_parts
from nanogpt.model.build import model_flops
from nanogpt.model.loss import IDS_AT_ONCE

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
    """The models that are built meanwhile."""
    models = []

    def build(config):
        models.append(original(config))
        return models[-1]

    original = step_parts.build_model
    monkeypatch.setattr(step_parts, "build_model", build)
    return models


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("arch", ["base", "optimized"])
def test_every_part_goes_both_ways_through_its_own_weights(arch, dtype, built):
    steps = step_parts.parts("it.", arch, dtype, SETTINGS)
    assert list(steps) == [f"it.{part}" for part in PARTS]
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
def test_parts_add_up_to_the_step(arch):
    """In floating point operations, as the model is counted: 4 for each weight backwards, 2 forwards."""
    settings = replace(SETTINGS, vocab_size=IDS_AT_ONCE + 100)
    counts = {name: flops(step) for name, step in step_parts.parts("", arch, "bfloat16", settings).items()}
    assert counts["embedding"] == counts["optimizer"] == 0
    assert counts["head_loss"] == 6 * TOKENS * C * settings.vocab_size
    assert sum(counts.values()) == model_flops(settings.config(arch), TOKENS)


def test_the_optimizer_updates_a_whole_model(built):
    step = step_parts.parts("", "optimized", "float32", SETTINGS)["optimizer"]
    model = built[-1]
    before = [parameter.detach().clone() for parameter in model.parameters()]
    step()
    assert not any(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))
    norm = torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).norm()
    assert norm.item() == pytest.approx(1, rel=1e-3)  # clipped, from some hundred


@pytest.mark.parametrize("vocab_size", [64, 2 * IDS_AT_ONCE, 2 * IDS_AT_ONCE + 1])
def test_products_are_the_three_of_the_head(vocab_size):
    settings = replace(SETTINGS, vocab_size=vocab_size)
    steps = step_parts.products("three", "bfloat16", settings)
    assert list(steps) == ["three"]
    assert flops(steps["three"]) == 3 * 2 * TOKENS * C * vocab_size
    head = step_parts.parts("", "optimized", "bfloat16", settings)["head_loss"]
    assert flops(head) == flops(steps["three"])


def test_a_matrix_product_in_each_dtype():
    steps = step_parts.matrix({"fp32": "float32", "bf16": "bfloat16"}, SETTINGS, 40)
    assert {name: flops(step) for name, step in steps.items()} == {"fp32": 2 * 40**3, "bf16": 2 * 40**3}
    assert {name: step().dtype for name, step in steps.items()} == {"fp32": torch.float32, "bf16": torch.bfloat16}


@pytest.mark.parametrize("grad", [None, torch.ones(3, 1)], ids=["of a scalar", "given"])
def test_a_step_goes_both_ways_and_leaves_nothing(grad):
    layer, x = nn.Linear(4, 1), torch.randn(3, 4, requires_grad=True)
    leaves, reached = [*layer.parameters(), x], Counter()
    for place, leaf in enumerate(leaves):
        leaf.register_post_accumulate_grad_hook(lambda _, place=place: reached.update([place]))
    step = step_parts.both_ways(lambda: layer(x).sum() if grad is None else layer(x), grad, "bfloat16", leaves)
    for times in (1, 2):
        step()
        assert reached == dict.fromkeys(range(3), times)
        assert all(leaf.grad is None for leaf in leaves)


def test_figures_are_nested_by_variant():
    seconds = {"base_fp32.mlp": 0.25, "base_fp32.attention": 0.5, "optimized_bf16.mlp": 0.125}
    assert step_parts.nested(seconds) == {
        "base_fp32": {"mlp": 250, "attention": 500},
        "optimized_bf16": {"mlp": 125},
    }


def test_the_table_shows_every_figure():
    columns = {"base": {"mlp": 1.234, "attention": 56.5}, "optimized": {"mlp": 7.0, "attention": 0.126}}
    lines = step_parts.table({"parts_ms": columns, "other": {"fp32": {"x": 3.25}}}).splitlines()
    assert [line.split() for line in lines] == [
        ["parts_ms"], ["base", "optimized"], ["mlp", "1.23", "7.00"], ["attention", "56.50", "0.13"], [],
        ["other"], ["fp32"], ["x", "3.25"],
    ]  # fmt: skip
