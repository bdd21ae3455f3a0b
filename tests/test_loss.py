import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nanogpt.model import loss
from nanogpt.model.loss import IGNORED, head_loss


class Head(nn.Module):
    """A linear head with no `weight` to read past it, which notes how many rows each call had."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.hidden_weight = nn.Parameter(torch.randn(11, 6, dtype=dtype))
        self.calls: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.append(x.numel() // x.size(-1))
        return x @ self.hidden_weight.T


@pytest.fixture(params=[torch.float32, torch.float64], ids=str)
def case(request) -> tuple[Head, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    targets = torch.randint(11, (3, 5))
    targets[0, 1] = targets[2, 4] = IGNORED
    return Head(request.param), 3 * torch.randn(3, 5, 6, dtype=request.param, requires_grad=True), targets


def reference(head: Head, hidden: torch.Tensor, targets: torch.Tensor, reduction: str) -> torch.Tensor:
    logits = (hidden.double() @ head.hidden_weight.double().T).flatten(0, 1)
    losses = F.cross_entropy(logits, targets.flatten(), ignore_index=-100, reduction=reduction)
    return losses.view_as(targets) if reduction == "none" else losses


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_it_is_cross_entropy(case, reduction):
    head, hidden, targets = case
    losses, expected = head_loss(*case, reduction), reference(*case, reduction)
    assert losses.shape == expected.shape
    tolerance = 1e-12 if hidden.dtype == torch.float64 else 1e-5
    torch.testing.assert_close(losses.double(), expected, atol=tolerance, rtol=0)
    if reduction == "none":
        assert ((losses == 0) == (targets == IGNORED)).all()
    weights = torch.rand_like(expected)
    ours = torch.autograd.grad((losses * weights).sum(), (hidden, head.hidden_weight))
    theirs = torch.autograd.grad((expected * weights).sum(), (hidden, head.hidden_weight))
    for mine, wanted in zip(ours, theirs, strict=True):
        assert wanted.norm() > 0.01
        torch.testing.assert_close(mine, wanted, atol=10 * tolerance, rtol=0)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("at_once", [1, 4, 5, 15, 100])
def test_without_gradients_blocks_give_the_same(case, reduction, at_once, monkeypatch):
    monkeypatch.setattr(loss, "TOKENS_AT_ONCE", at_once)
    head = case[0]
    plain = head_loss(*case, reduction)
    assert head.calls == [15]
    head.calls.clear()
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            blocks = head_loss(*case, reduction)
        torch.testing.assert_close(blocks, plain.detach(), atol=1e-5, rtol=0)
        assert max(head.calls) == min(at_once, 15)
        assert sum(head.calls) == 15
        head.calls.clear()


@pytest.mark.parametrize("grad", [True, False])
def test_a_batch_with_nothing_to_score_has_no_loss_and_teaches_nothing(case, grad):
    """0 and not 0/0: one NaN in an accumulated step would spoil every weight."""
    head, hidden, targets = case
    targets = torch.full_like(targets, IGNORED)
    with torch.set_grad_enabled(grad):
        mean, each = head_loss(head, hidden, targets, "mean"), head_loss(head, hidden, targets, "none")
    assert mean.item() == 0
    assert torch.equal(each, torch.zeros_like(each))
    if grad:
        for gradient in torch.autograd.grad(mean, (hidden, head.hidden_weight)):
            assert torch.equal(gradient, torch.zeros_like(gradient))


def test_half_precision_logits_are_scored_in_float32():
    torch.manual_seed(0)
    head, hidden = Head(torch.bfloat16), torch.randn(2, 7, 6, dtype=torch.bfloat16)
    targets = torch.randint(11, (2, 7))
    logits = (hidden @ head.hidden_weight.T).detach()
    expected = F.cross_entropy(logits.double().flatten(0, 1), targets.flatten())
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            mean = head_loss(head, hidden, targets, "mean")
        assert mean.dtype == torch.float32
        assert mean.item() == pytest.approx(expected.item(), abs=1e-5)


def test_large_logits_stay_finite():
    head = nn.Linear(1, 3, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1e4], [0.0], [-1e4]]))
        losses = head_loss(head, torch.ones(1, 2, 1), torch.tensor([[0, 2]]), "none")
    assert losses.tolist() == [[0.0, 2e4]]
