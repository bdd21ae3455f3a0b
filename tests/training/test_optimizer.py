import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from nanogpt.training.muon import Muon, orthogonalize
from nanogpt.training.optimizer import build_adamw, build_optimizer
from nanogpt.training.schedule import learning_rate


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(7, 6), nn.Linear(6, 5), nn.LayerNorm(5))


def test_a_step_is_the_papers():
    """Algorithm 2 of arXiv:1711.05101 in float64, its decay multiplied by the learning rate as all libraries do."""
    net = small()
    lr, betas, decay, eps = 0.01, (0.8, 0.95), 0.3, 1e-8
    optimizer = build_adamw(net.parameters(), lr, betas, decay)
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
    held = [p for group in build_adamw(net.parameters(), 0.1, (0.9, 0.99), 0.1).param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for name, p in net.named_parameters() if name != "1.weight"}
    assert len(held) == 4


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize(("warmup", "steps"), [(10, 100), (0, 50), (1, 3)])
def test_the_learning_rates_way(training, warmup, steps, schedule):
    settings = training(lr=0.8, min_lr=0.2, warmup_steps=warmup, max_steps=steps, schedule=schedule)
    rates = [learning_rate(step, settings) for step in range(steps)]
    for step in range(warmup):
        assert rates[step] == pytest.approx(0.8 * (step + 1) / warmup)
    assert rates[warmup] == pytest.approx(0.8)
    way = [i / (steps - 1 - warmup) for i in range(steps - warmup)]
    down = {"linear": [0.8 - 0.6 * x for x in way], "cosine": [0.5 + 0.3 * math.cos(math.pi * x) for x in way]}
    assert rates[warmup:] == pytest.approx(down[schedule])
    assert learning_rate(0, training(lr=0.8, min_lr=0.2, warmup_steps=0, max_steps=1)) == 0.8


@pytest.mark.parametrize("arch", ["base", "optimized"])
def test_muon_has_the_blocks_matrices_and_adamw_the_rest(tiny, training, arch):
    """Matrices as NorMuon does, from steps of torch's own Muon, which has bfloat16 alone; all else as AdamW does."""
    model = tiny(arch, n_embd=64)
    settings = training(optimizer="muon", lr=0.01, weight_decay=0.2, beta1=0.8, beta2=0.7)
    groups = dict.fromkeys(("muon", "adamw"))
    copies = {name: copy.deepcopy(model) for name in groups}
    blocks = {
        name for name, p in model.named_parameters()
        if p.dim() == 2 and not any(part in name for part in ("wte", "wpe", "embed", "lm_head"))
    }  # fmt: skip
    assert len(blocks) == {"base": 4, "optimized": 7}[arch] * model.config.n_layer
    ours = build_optimizer(model, settings, torch.bfloat16)
    theirs = {
        "muon": torch.optim.Muon(
            [p for name, p in copies["muon"].named_parameters() if name in blocks],
            1.0, 0.0, 0.8, ns_steps=3, adjust_lr_fn="match_rms_adamw",
        ),
        "adamw": build_optimizer(copies["adamw"], replace(settings, optimizer="adamw"), torch.bfloat16),
    }  # fmt: skip
    random = torch.Generator().manual_seed(1)
    expected = {name: model.get_parameter(name).detach().double() for name in blocks}
    squares = dict.fromkeys(blocks, 0.0)
    for k in range(1, 4):
        before = {name: copies["muon"].get_parameter(name).detach().clone() for name in blocks}
        for name, parameter in model.named_parameters():
            parameter.grad = torch.randn(parameter.shape, generator=random)
            for other in copies.values():
                other.get_parameter(name).grad = parameter.grad.clone()
        for optimizer in (ours, *theirs.values()):
            optimizer.step()
        for name in blocks:
            step = (before[name] - copies["muon"].get_parameter(name).detach()).double()
            squares[name] = 0.7 * squares[name] + 0.3 * step.square().mean(1)
            step = step / (squares[name] / (1 - 0.7**k)).sqrt()[:, None]
            step = step * torch.dist(before[name], copies["muon"].get_parameter(name)) / step.norm()
            expected[name] = (1 - 0.01 * 0.2) * expected[name] - 0.01 * step
    for name, parameter in model.named_parameters():
        other = expected[name].float() if name in blocks else copies["adamw"].get_parameter(name)
        torch.testing.assert_close(parameter, other, rtol=0, atol=1e-4 if name in blocks else 0)


def test_muon_leaves_a_matrix_without_a_gradient_where_it_is():
    matrix = torch.nn.Parameter(torch.ones(3, 4))
    matrix.grad = torch.zeros(3, 4)
    Muon([matrix], 0.1, (0.9, 0.9), 0.0, torch.float32).step()
    assert torch.equal(matrix, torch.ones(3, 4))


@pytest.mark.parametrize("shape", [(6, 6), (5, 9), (9, 5)])
def test_orthogonalizing_keeps_directions_and_evens_out_singular_values(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2)).double()
    u, d, v = torch.linalg.svd(x, full_matrices=False)
    s = u.T @ orthogonalize(x) @ v.T
    torch.testing.assert_close(s, s.diagonal().diag(), atol=1e-10, rtol=0)
    assert ((s.diagonal() > 0.5) & (s.diagonal() < 1.3))[d > 0.2 * d.norm()].all()
