import math

import needs
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from nanogpt.model import loss
from nanogpt.model.loss import IGNORED, head_loss
from nanogpt.training.step import compile_loss


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


def linear(N: int, D: int, V: int, dtype=torch.float64, std: float = 1.0, seed: int = 0) -> tuple:
    """A plain linear head, which is read and not called, (2, N / 2, D) of hidden states and targets, two ignored."""
    torch.manual_seed(seed)
    head = nn.Linear(D, V, bias=False, dtype=dtype)
    hidden = torch.randn(2, N // 2, D, dtype=dtype, requires_grad=True)
    targets = torch.randint(V, (2, N // 2))
    targets[0, 1] = targets[1, -1] = IGNORED
    with torch.no_grad():
        head.weight.normal_(std=std / D**0.5)  # logits of standard deviation `std`
    return head, hidden, targets


def plain(head: nn.Linear, hidden: torch.Tensor, targets: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    """Cross entropy of all logits in float64; differentiable by the head's and the hidden states' own tensors."""
    logits = hidden.double() @ head.weight.double().T
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction=reduction)
    return losses.view_as(targets) if reduction == "none" else losses


def gradients(loss: torch.Tensor, head: nn.Linear, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.autograd.grad(loss, (hidden, head.weight))


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Length of the difference relative to that of what is exact."""
    return ((found.double() - exact.double()).norm() / exact.double().norm()).item()


@pytest.fixture(params=["one chunk", "three tokens a chunk"])
def small_blocks(request, monkeypatch) -> None:
    """Blocks of 4 ids, and chunks of 3 tokens of 8-byte logits at 11 ids, so that tiny cases have several of both."""
    monkeypatch.setattr(loss, "IDS_AT_ONCE", 4)
    if request.param != "one chunk":
        monkeypatch.setattr(loss, "KEPT_BYTES", 3 * 11 * 8)


@pytest.mark.parametrize("V", [1, 3, 4, 5, 11])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)], ids=str)
def test_a_linear_head_has_plain_cross_entropy_at_any_size(small_blocks, V, dtype, tolerance):
    head, hidden, targets = linear(14, 5, V, dtype, std=3)
    expected, found = plain(head, hidden, targets), head_loss(head, hidden, targets)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, atol=tolerance, rtol=tolerance)
    for mine, wanted in zip(gradients(found, head, hidden), gradients(expected, head, hidden), strict=True):
        torch.testing.assert_close(mine, wanted, atol=tolerance, rtol=0)


def test_two_backward_passes_and_a_factor_on_the_loss(small_blocks):
    """Gradients are formed before the factor is known, and are not used up by the first backward pass."""
    head, hidden, targets = linear(14, 5, 11)
    exact = gradients(plain(head, hidden, targets), head, hidden)
    mean = head_loss(head, hidden, targets)
    for factor in (1, 0.3, -2, 1):
        found = torch.autograd.grad(factor * mean, (hidden, head.weight), retain_graph=True)
        for mine, wanted in zip(found, exact, strict=True):
            torch.testing.assert_close(mine, factor * wanted, atol=1e-12, rtol=0)


@pytest.mark.parametrize("learning", ["hidden", "weight"])
def test_only_one_of_them_learns(small_blocks, learning):
    head, hidden, targets = linear(14, 5, 11)
    of, frozen = (hidden, head.weight) if learning == "hidden" else (head.weight, hidden)
    frozen.requires_grad_(False)
    head_loss(head, hidden, targets).backward()
    (wanted,) = torch.autograd.grad(plain(head, hidden, targets), of)
    torch.testing.assert_close(of.grad, wanted, atol=1e-12, rtol=0)
    assert frozen.grad is None


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_a_linear_head_is_scored_alike_with_and_without_gradients(small_blocks, mode, reduction):
    head, hidden, targets = linear(14, 5, 11)
    with mode():
        found = head_loss(head, hidden, targets, reduction)
    expected = plain(head, hidden, targets, reduction)
    torch.testing.assert_close(found, expected.detach(), atol=1e-12, rtol=0)
    assert found.requires_grad == (mode is torch.enable_grad)
    if found.requires_grad:
        factors = torch.rand_like(expected)
        exact = gradients((expected * factors).sum(), head, hidden)
        for mine, wanted in zip(gradients((found * factors).sum(), head, hidden), exact, strict=True):
            torch.testing.assert_close(mine, wanted, atol=1e-12, rtol=0)


@pytest.mark.parametrize("std", [1, 300])
def test_a_linear_head_with_nothing_to_score_learns_nothing(small_blocks, std):
    head, hidden, targets = linear(14, 5, 11, torch.float32, std)
    targets.fill_(IGNORED)
    mean = head_loss(head, hidden, targets)
    assert mean.item() == 0
    for gradient in gradients(mean, head, hidden):
        assert torch.equal(gradient, torch.zeros_like(gradient))
    with torch.no_grad():
        assert head_loss(head, hidden, targets, "none").tolist() == [[0.0] * 7] * 2


def autocast() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


@pytest.mark.parametrize("V", [300, 5000])
@pytest.mark.parametrize("std", [1, 4])
@pytest.mark.parametrize("chunks", [1, 32])
def test_bfloat16_is_as_near_to_float64_as_plain_autocast(monkeypatch, V, std, chunks):
    monkeypatch.setattr(loss, "KEPT_BYTES", 2 * V * 512 // chunks)
    ours, theirs = [], []
    for seed in range(3):
        head, hidden, targets = linear(512, 64, V, torch.float32, std, seed)
        expected = plain(head, hidden, targets)
        exact = gradients(expected, head, hidden)
        with autocast():
            mean = head_loss(head, hidden, targets)
            usual = F.cross_entropy(head(hidden).float().flatten(0, 1), targets.flatten())
        assert mean.dtype == torch.float32
        assert mean.item() == pytest.approx(expected.item(), abs=5e-3)
        found = gradients(mean, head, hidden)
        assert {gradient.dtype for gradient in found} == {torch.float32}
        ours.append([error(*pair) for pair in zip(found, exact, strict=True)])
        theirs.append([error(*pair) for pair in zip(gradients(usual, head, hidden), exact, strict=True)])
        with autocast(), torch.no_grad():
            each, wanted = head_loss(head, hidden, targets, "none"), plain(head, hidden, targets, "none")
            usual = F.cross_entropy(head(hidden).float().flatten(0, 1), targets.flatten(), reduction="none")
        ours[-1].append(error(each, wanted))
        theirs[-1].append(error(usual.view_as(wanted), wanted))
    ours, theirs = torch.tensor(ours).mean(0), torch.tensor(theirs).mean(0)  # by hidden, by weight, each token's loss
    assert (ours[:2] > 1e-4).all()  # products in bf16 do show
    assert (ours <= 1.2 * theirs).all(), (ours, theirs)


def test_what_many_chunks_add_is_not_lost_beside_their_sum(monkeypatch):
    """In bf16 a sum takes no more terms once it is 256 of them; hidden states with a mean have terms all alike."""
    monkeypatch.setattr(loss, "KEPT_BYTES", 1)  # a chunk of one token
    head, hidden, targets = linear(512, 8, 11, torch.float32, std=0.1)
    hidden.data += 2
    exact = gradients(plain(head, hidden, targets), head, hidden)
    with autocast():
        found = gradients(head_loss(head, hidden, targets), head, hidden)
    for mine, wanted in zip(found, exact, strict=True):
        assert error(mine, wanted) < 0.01


def sure(p: float, N: int, D: int, V: int) -> tuple:
    """A head and hidden states that give their targets the probability p, in fp32 of numbers that bf16 can hold."""
    head, hidden, targets = linear(N, D, V, torch.float32)
    targets.clamp_(min=0)
    head.weight.data = F.normalize(head.weight.data).bfloat16().float()
    own = head.weight.data[targets].double()
    length = torch.full((2, N // 2, 1), 10.0, dtype=torch.float64)
    for _ in range(50):  # until the target's logit is as far above the log-sum of the others
        logits = length * own @ head.weight.data.double().T
        length += math.log(p / (1 - p)) - gap(logits, targets)[..., None]
    hidden.data = (length * own).bfloat16().float()
    return head, hidden, targets


def gap(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The target's logit less the log-sum of the others', which is log(p / (1 - p))."""
    others = logits.scatter(-1, targets[..., None], -math.inf).logsumexp(-1)
    return logits.gather(-1, targets[..., None])[..., 0] - others


@pytest.mark.parametrize("p", [0.999, 0.99999, 0.9999999])
def test_a_sure_prediction_keeps_its_small_loss_and_slope_in_bfloat16(p):
    """At p = 0.999 bf16 holds no p but 0.996 and 1, so that p - 1 would be noise."""
    head, hidden, targets = sure(p, N=128, D=64, V=300)
    expected = plain(head, hidden, targets)
    assert expected.item() == pytest.approx(-math.log(p), rel=0.1)
    exact = gradients(expected, head, hidden)
    with autocast():
        mean = head_loss(head, hidden, targets)
    assert mean.item() == pytest.approx(expected.item(), rel=0.01)
    for mine, wanted in zip(gradients(mean, head, hidden), exact, strict=True):
        assert error(mine, wanted) < 0.015  # plain autocast has 0.018 to 0.04
    with autocast(), torch.no_grad():
        each = head_loss(head, hidden, targets, "none")
    assert error(each, plain(head, hidden, targets, "none")) < 0.015


FAR = {
    "both ways": lambda sign: 200 * sign,
    "all far below": lambda sign: -200 + sign,
    "all far above": lambda sign: 200 + sign,
    "each token its own": lambda sign: torch.linspace(-200, 200, 9).round() + sign,
}


@pytest.mark.parametrize("far", FAR)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 3e-5), (torch.bfloat16, 0.02)], ids=str
)
def test_logits_beyond_the_range_of_exp(small_blocks, far, dtype, tolerance):
    """Hidden states of one 1 pick a column of the weight as logits, whole numbers that bf16 holds exactly.

    Slopes are at most 1 / n, and what a gradient adds up is as large as the slopes times the other factor.
    """
    head, hidden, targets = linear(18, 9, 11, dtype)
    sign = torch.randint(2, (11, 9)) * 2.0 - 1
    head.weight.data = (FAR[far](sign) + torch.randint(-3, 4, (11, 9))).to(dtype)
    hidden.data = torch.eye(9).expand(2, 9, 9).to(dtype)
    expected = plain(head, hidden, targets)
    exact = gradients(expected, head, hidden)
    mean = head_loss(head, hidden, targets)
    assert mean.item() == pytest.approx(expected.item(), rel=tolerance)
    found = gradients(mean, head, hidden)
    for mine, wanted, other in zip(found, exact, (head.weight, hidden), strict=True):
        limit = tolerance * other.abs().max().item() / 16
        torch.testing.assert_close(mine.double(), wanted.double(), atol=limit, rtol=0)
    with torch.no_grad():
        each = head_loss(head, hidden, targets, "none").double()
    torch.testing.assert_close(each, plain(head, hidden, targets, "none").detach(), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
def test_a_hidden_state_that_is_not_finite_is_no_silent_zero(small_blocks, value):
    head, hidden, targets = linear(14, 5, 11, torch.float32)
    with torch.no_grad():
        expected = plain(head, hidden, targets, "none")
        hidden[1, 2, 3] = value
        each = head_loss(head, hidden, targets, "none")
    assert not head_loss(head, hidden, targets).isfinite()
    broken = torch.zeros_like(targets, dtype=torch.bool)
    broken[1, 2] = True
    assert torch.equal(~each.isfinite(), broken)
    torch.testing.assert_close(each.double()[~broken], expected[~broken], atol=1e-6, rtol=0)


class Largest(TorchDispatchMode):
    """Notes the bytes of the largest tensor that any operation returns."""

    nbytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, torch.Tensor):
                self.nbytes = max(self.nbytes, tensor.untyped_storage().nbytes())
        return made


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "bf16"])
def test_all_logits_never_exist_at_once(monkeypatch, half):
    N, D, V = 512, 16, 20_000
    head, hidden, targets = linear(N, D, V, torch.float32)
    monkeypatch.setattr(loss, "KEPT_BYTES", 1 << 21)
    limit = max(loss.KEPT_BYTES, head.weight.nbytes)
    with Largest() as usual:
        F.cross_entropy(head(hidden).flatten(0, 1), targets.flatten()).backward()
    assert usual.nbytes == 4 * N * V > 15 * limit
    with Largest() as ours, torch.autocast("cpu", torch.bfloat16, enabled=half):
        mean = head_loss(head, hidden, targets)
        mean.backward()
    assert ours.nbytes <= limit
    assert mean.item() == pytest.approx(plain(head, hidden, targets).item(), abs=5e-3)
    with Largest() as scored, torch.no_grad():
        head_loss(head, hidden, targets, "none")
    assert scored.nbytes <= 4 * N * loss.IDS_AT_ONCE


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("arch", ["base", "optimized"])
def test_a_models_gradients_are_those_of_its_logits(tiny, monkeypatch, arch, tied):
    monkeypatch.setattr(loss, "IDS_AT_ONCE", 100)
    model = tiny(arch, tie_embeddings=tied, n_layer=2).double()
    ids, targets = torch.randint(320, (2, 3, 16))
    targets[1, 4:] = IGNORED
    expected, found = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten()), model(ids, targets)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    parameters = dict(model.named_parameters())
    exact, ours = (torch.autograd.grad(of, parameters.values()) for of in (expected, found))
    for name, wanted, mine in zip(parameters, exact, ours, strict=True):
        torch.testing.assert_close(mine, wanted, atol=1e-12, rtol=0, msg=name)


@pytest.mark.slow
@needs.compiler
@pytest.mark.parametrize("arch", ["base", "optimized"])
def test_with_all_but_the_head_compiled(tiny, monkeypatch, tmp_path, arch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    model = tiny(arch, n_layer=2, tie_embeddings=True)
    ids, targets = torch.randint(320, (2, 3, 16))
    targets[1, 4:] = IGNORED
    eager, fast = model(ids, targets), compile_loss(model)(ids, targets)
    assert fast.item() == pytest.approx(eager.item(), rel=1e-4)
    parameters = dict(model.named_parameters())
    exact, ours = (torch.autograd.grad(of, parameters.values()) for of in (eager, fast))
    for name, wanted, mine in zip(parameters, exact, ours, strict=True):
        assert error(mine, wanted) < 1e-4, name
