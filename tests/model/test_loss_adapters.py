"""Which heads the loss may read past their call, and that no adapter, on the head or before it, is left out."""

import pytest
import torch
import torch.nn.functional as F
from adapters import fill, ids_of, settings
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils._python_dispatch import TorchDispatchMode

from nanogpt.lora.attach import attach_adapter, target_names
from nanogpt.model.loss import IGNORED, head_loss

each_arch = pytest.mark.parametrize("arch", ["base", "optimized"])
each_kind = pytest.mark.parametrize("kind", ["lora", "rslora", "dora"])


class Capped(nn.Linear):
    """A linear head of another forward pass: Gemma's soft cap on logits."""

    def __init__(self, D: int, V: int):
        super().__init__(D, V, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * torch.tanh(super().forward(x) / 2)


def biased(D: int, V: int) -> nn.Linear:
    head = nn.Linear(D, V)
    nn.init.normal_(head.bias)
    return head


def normed(D: int, V: int) -> nn.Linear:
    head = weight_norm(nn.Linear(D, V, bias=False))
    head.parametrizations.weight.original0.data *= 3  # the lengths of the weight's rows
    return head


def hooked(D: int, V: int) -> nn.Linear:
    head = nn.Linear(D, V, bias=False)
    head.register_forward_hook(lambda module, given, logits: 2 * logits)
    return head


def replaced(D: int, V: int) -> nn.Linear:
    head = nn.Linear(D, V, bias=False)
    head.forward = lambda x: 2 * F.linear(x, head.weight)
    return head


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    return F.cross_entropy(logits.double().flatten(0, -2), targets.flatten(), reduction=reduction)


def some_targets(model, seed: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(model.config.vocab_size, (3, model.config.block_size), generator=generator)
    targets[0, :4] = IGNORED
    return targets


@pytest.mark.parametrize("make", [Capped, biased, normed, hooked, replaced])
def test_a_head_that_is_not_plain_is_called(make):
    torch.manual_seed(0)
    head, hidden, targets = make(6, 11).double(), torch.randn(2, 5, 6, dtype=torch.float64), torch.randint(11, (2, 5))
    hidden.requires_grad_()
    expected, found = cross_entropy(head(hidden), targets), head_loss(head, hidden, targets)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    learning = (hidden, *head.parameters())
    for mine, wanted in zip(*(torch.autograd.grad(of, learning) for of in (found, expected)), strict=True):
        torch.testing.assert_close(mine, wanted, atol=1e-12, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(head_loss(head, hidden, targets), expected, atol=1e-12, rtol=0)
        assert make is normed or (cross_entropy(hidden @ head.weight.T, targets) - expected).abs() > 1e-3


@each_kind
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@each_arch
def test_an_adapter_on_the_head_learns_what_plain_algebra_says(tiny, arch, tied, kind):
    """logits = h (W + s B A)^T, and with DoRA its rows at a length of their own, which the gradient holds fixed."""
    model = tiny(arch, tie_embeddings=tied)
    adapted = fill(attach_adapter(model, settings(kind=kind, target_modules=["lm_head"]), 1))
    ids, targets = ids_of(model), some_targets(model)
    found = adapted(ids, targets)
    found.backward()
    head, hidden = model.lm_head, model.hidden(ids).detach().double()
    A, B = (getattr(head, f"lora_{which}")["default"].weight for which in "AB")
    a, b = (p.detach().double().requires_grad_() for p in (A, B))
    weight = head.base_layer.weight.detach().double() + 6 / (3**0.5 if kind == "rslora" else 3) * b @ a
    if kind == "dora":
        length = head.lora_magnitude_vector["default"].weight.detach().double()
        weight = (length / weight.norm(dim=1).detach())[:, None] * weight
    expected = cross_entropy(hidden @ weight.T, targets)
    expected.backward()
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)
    with torch.no_grad():
        assert adapted(ids, targets).item() == pytest.approx(expected.item(), abs=1e-5)
        each = adapted(ids, targets, reduction="none").double().flatten()
        torch.testing.assert_close(each, cross_entropy(hidden @ weight.T, targets, "none"), atol=1e-5, rtol=0)
        bypassed = cross_entropy(hidden @ head.base_layer.weight.double().T, targets, "none")
        assert (each - bypassed).abs().max() > 0.1
    for mine, wanted in ((A.grad, a.grad), (B.grad, b.grad)):
        assert wanted.norm() > 1e-3
        torch.testing.assert_close(mine.double(), wanted, atol=1e-6, rtol=1e-4)


class Products(TorchDispatchMode):
    """Notes the shapes of all matrix products."""

    def __init__(self):
        super().__init__()
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm):
            self.shapes.add(tuple(made.shape))
        return made


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "bf16"])
@each_arch
def test_a_frozen_head_costs_no_product_for_its_gradient(tiny, arch, half):
    model = tiny(arch)
    ids, targets = ids_of(model), some_targets(model)

    def products(model) -> set[tuple[int, ...]]:
        with Products() as seen, torch.autocast("cpu", torch.bfloat16, enabled=half):
            model(ids, targets).backward()
        return seen.shapes

    V, C = model.lm_head.weight.shape
    assert (V, C) in products(model)
    model.zero_grad()
    adapted = fill(attach_adapter(model, settings(), 1))
    assert "lm_head" not in target_names(model, "all-linear")
    seen = products(adapted)
    assert (V, C) not in seen and (ids.numel(), V) in seen
    assert model.lm_head.weight.grad is None
