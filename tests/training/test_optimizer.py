import math

import pytest
import torch
from torch import nn

from nanogpt.training.optimizer import build_adamw
from nanogpt.training.schedule import learning_rate


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(7, 6), nn.Linear(6, 5), nn.LayerNorm(5))


def test_a_step_is_the_papers():
    """Algorithm 2 of arXiv:1711.05101 in float64, its decay multiplied by the learning rate as all libraries do."""
    net = small()
    lr, betas, decay, eps = 0.01, (0.8, 0.95), 0.3, 1e-8
    optimizer = build_adamw(net, lr, betas, decay)
    theta = {name: p.detach().double().clone() for name, p in net.named_parameters()}
    m = {name: torch.zeros_like(t) for name, t in theta.items()}
    v = {name: torch.zeros_like(t) for name, t in theta.items()}
    for t in range(1, 11):
        for name, parameter in net.named_parameters():
            parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(t)) * 10.0**-t
            g = parameter.grad.double()
            m[name] = betas[0] * m[name] + (1 - betas[0]) * g
            v[name] = betas[1] * v[name] + (1 - betas[1]) * g * g
            step = (m[name] / (1 - betas[0] ** t)) / ((v[name] / (1 - betas[1] ** t)).sqrt() + eps)
            matrix = name in ("0.weight", "1.weight")
            theta[name] = theta[name] - lr * step - (lr * decay * theta[name] if matrix else 0.0)
        optimizer.step()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter.detach().double(), theta[name], rtol=1e-5, atol=1e-6)


def test_frozen_parameters_are_left_out_and_a_shared_one_is_there_once():
    net = small()
    net[1].weight.requires_grad_(False)
    net.again = net[0]
    held = [p for group in build_adamw(net, 0.1, (0.9, 0.99), 0.1).param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for name, p in net.named_parameters() if name != "1.weight"}
    assert len(held) == 4


@pytest.mark.parametrize(("warmup", "steps"), [(10, 100), (0, 50), (1, 3)])
def test_the_learning_rates_way(warmup, steps):
    rates = [learning_rate(s, peak=0.8, floor=0.2, warmup_steps=warmup, max_steps=steps) for s in range(steps)]
    for step in range(warmup):
        assert rates[step] == pytest.approx(0.8 * (step + 1) / warmup)
    assert rates[warmup] == pytest.approx(0.8)
    half_turn = math.pi / (steps - 1 - warmup)
    assert rates[warmup:] == pytest.approx([0.5 + 0.3 * math.cos(half_turn * i) for i in range(steps - warmup)])
    assert learning_rate(0, peak=0.8, floor=0.2, warmup_steps=0, max_steps=1) == 0.8
