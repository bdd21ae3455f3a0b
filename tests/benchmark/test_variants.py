import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from benchmark_shapes import SETTINGS, count_flops
from torch import nn

from nanogpt.benchmark import variants
from nanogpt.benchmark.variants import Variant
from nanogpt.hardware.matmul_rates import measured_rates
from nanogpt.model.build import build_model, model_flops


@pytest.mark.parametrize("arch", ["base", "optimized"])
def test_model_flops_are_those_that_torch_counts(arch):
    config = replace(SETTINGS, n_kv_head=2).config(arch)
    model, ids = build_model(config), torch.randint(64, (3, 16))
    counted = count_flops(lambda: F.cross_entropy(model(ids).flatten(0, 1), ids.flatten()).backward())
    assert model_flops(config, 3 * 16) == pytest.approx(counted, rel=1e-3)


def build_twins(arch: str) -> tuple[list[nn.Module], tuple[torch.Tensor, torch.Tensor]]:
    """Two models with the same weights, and a batch."""
    torch.manual_seed(0)
    model, twin = (build_model(SETTINGS.config(arch)) for _ in range(2))
    twin.load_state_dict(model.state_dict())
    return [model, twin], tuple(torch.randint(64, (2, 3, 16)))


def record_gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    """Gradients by parameter before they are clipped, filled in by the backward pass."""
    grads = {}
    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda p, name=name: grads.update({name: p.grad.clone()}))
    return grads


@pytest.mark.parametrize("arch", ["base", "optimized"])
def test_the_yardstick_learns_the_same(arch):
    """Plain torch's step and this project's: loss and gradients are equal, and weights but for how these decay."""
    (model, twin), batch = build_twins(arch)
    theirs, ours = record_gradients(model), record_gradients(twin)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    expected = F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())
    variants.build_plain_step(model, Variant(arch, "float32", plain=True), SETTINGS, batch)()
    loss = variants.build_own_step(twin, Variant(arch, "float32"), SETTINGS, batch)()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert set(theirs) == set(ours) == {name for name, _ in model.named_parameters()}
    for name, grad in theirs.items():
        torch.testing.assert_close(ours[name], grad, atol=1e-6, rtol=1e-4)
        weight, twins = model.get_parameter(name), twin.get_parameter(name)
        plain = weight - (1 - 1e-4 * 0.01) * before[name]
        own = twins - (1 - 1e-4 * (0.1 if weight.dim() == 2 else 0.0)) * before[name]
        assert 0.9e-4 < plain.abs().max() < 1.1e-4  # a first step is as long as the learning rate
        assert arch == "base" or torch.allclose(plain, own, atol=2e-6, rtol=0)


def flushes_denormals() -> bool:
    return (torch.tensor([1e-310], dtype=torch.float64) * 0.5).item() == 0


def test_the_yardstick_is_not_tuned():
    torch.set_flush_denormal(False)
    plain = variants.build_training_step("plain", Variant("base", "float32", plain=True), SETTINGS)
    plain["plain"]()
    assert torch.backends.mkldnn.matmul.fp32_precision == "none" and not flushes_denormals()
    ours = variants.build_training_step("ours", Variant("base", "float32"), SETTINGS)
    ours["ours"]()
    assert flushes_denormals()
    if measured_rates().onednn_pays:
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"


def test_an_adapter_alone_learns():
    (model, _), batch = build_twins("optimized")
    step = variants.build_own_step(model, Variant("optimized", "float32", adapter=variants.ADAPTER), SETTINGS, batch)
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(learning) == 2 * 2 * 7 and all(".lora_A." in name or ".lora_B." in name for name in learning)
    assert all(p.numel() == 8 * max(p.shape) for n, p in model.named_parameters() if n in learning)  # of rank 8
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    losses = [step() for _ in range(3)]
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, start[name])}
    assert changed == learning and losses[-1] < losses[0]


ISA = """
from benchmark_shapes import SETTINGS
from nanogpt.hardware.processor import instruction_set
from nanogpt.benchmark.variants import Variant, build_training_step
build_training_step("x", Variant("optimized", "bfloat16", isa="AVX2"), SETTINGS)["x"]()
print(instruction_set())
"""


def test_instructions_can_be_hidden(tmp_path):
    """From oneDNN too, whose log names what its kernels use."""
    env = os.environ | {"DVC_ROOT": str(tmp_path), "ONEDNN_VERBOSE": "1"}
    done = subprocess.run([sys.executable, "-c", ISA], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] in ("AVX2", "plain", "NEON", "SVE", "SVE256")
    assert "avx512" not in done.stdout.lower() and "amx" not in done.stdout.lower()
