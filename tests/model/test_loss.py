import math

import pytest
import torch
import torch.nn.functional as F
from adapters import TOKENS, fill, ids_of, settings
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils._python_dispatch import TorchDispatchMode

from nanogpt.lora.attach import attach_adapter, check_adapter
from nanogpt.model import loss
from nanogpt.model.loss import IGNORED, head_loss


class Called(nn.Linear):
    """A subclass, which may do anything to its weight and so is called; notes how many rows each call had."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls = [*getattr(self, "calls", []), x.numel() // x.size(-1)]
        return super().forward(x)


def linear(N: int, D: int, V: int, dtype=torch.float64, std: float = 1.0, seed: int = 0, head_class=nn.Linear) -> tuple:
    """A linear head, (2, N / 2, D) of hidden states and targets, two of them ignored."""
    torch.manual_seed(seed)
    head = head_class(D, V, bias=False, dtype=dtype)
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
    monkeypatch.setattr(loss, "TOKENS_AT_ONCE", 4)
    if request.param != "one chunk":
        monkeypatch.setattr(loss, "KEPT_BYTES", 3 * 11 * 8)


each_head = pytest.mark.parametrize("head_class", [nn.Linear, Called])
each_reduction = pytest.mark.parametrize("reduction", ["mean", "none"])


@pytest.mark.parametrize("V", [1, 4, 5, 11])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 3e-6)], ids=str)
@each_reduction
@each_head
def test_it_is_cross_entropy(small_blocks, head_class, reduction, V, dtype, tolerance):
    head, hidden, targets = linear(14, 5, V, dtype, std=3, head_class=head_class)
    expected, found = plain(head, hidden, targets, reduction), head_loss(head, hidden, targets, reduction)
    assert (found.dtype, found.shape) == (dtype, expected.shape)
    torch.testing.assert_close(found.double(), expected, atol=tolerance, rtol=tolerance)
    factors = torch.rand_like(expected)
    exact = gradients((expected * factors).sum(), head, hidden)
    for mine, wanted in zip(gradients((found * factors).sum(), head, hidden), exact, strict=True):
        torch.testing.assert_close(mine, wanted, atol=tolerance, rtol=0)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@each_reduction
@each_head
def test_without_gradients_it_is_the_same(small_blocks, head_class, reduction, mode):
    head, hidden, targets = linear(14, 5, 11, head_class=head_class)
    with mode():
        found = head_loss(head, hidden, targets, reduction)
        torch.testing.assert_close(found, plain(head, hidden, targets, reduction), atol=1e-12, rtol=0)
    assert not found.requires_grad
    assert head_class is nn.Linear or head.calls == [4, 4, 4, 2]


@pytest.mark.parametrize("std", [1, 300])
@each_head
def test_a_batch_with_nothing_to_score_has_no_loss_and_teaches_nothing(small_blocks, head_class, std):
    """0 and not 0/0: one NaN in an accumulated step would spoil every weight."""
    head, hidden, targets = linear(14, 5, 11, torch.float32, std, head_class=head_class)
    targets.fill_(IGNORED)
    mean = head_loss(head, hidden, targets)
    assert mean.item() == 0
    for gradient in gradients(mean, head, hidden):
        assert torch.equal(gradient, torch.zeros_like(gradient))
    with torch.no_grad():
        assert head_loss(head, hidden, targets, "none").tolist() == [[0.0] * 7] * 2
        assert head_loss(head, hidden, targets).item() == 0


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad])
def test_half_precision_logits_are_scored_in_float32(mode):
    head, hidden, targets = linear(14, 5, 11, torch.bfloat16, head_class=Called)
    with mode():
        mean = head_loss(head, hidden, targets)
        logits = head(hidden).double()
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    assert mean.dtype == torch.float32
    assert mean.item() == pytest.approx(expected.item(), abs=1e-5)


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


def autocast() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


@pytest.mark.parametrize(("V", "std", "chunks"), [(300, 1, 1), (300, 4, 32), (5000, 4, 1), (5000, 1, 32)])
def test_bfloat16_is_as_near_to_float64_as_plain_autocast(monkeypatch, V, std, chunks):
    monkeypatch.setattr(loss, "KEPT_BYTES", 2 * V * 512 // chunks)
    ours, theirs = [], []
    for seed in range(3):
        head, hidden, targets = linear(512, 64, V, torch.float32, std, seed)
        expected = plain(head, hidden, targets)
        exact = [*gradients(expected, head, hidden), plain(head, hidden, targets, "none").detach()]
        with autocast():
            mean = head_loss(head, hidden, targets)
            with torch.no_grad():
                each = head_loss(head, hidden, targets, "none")
            usual = F.cross_entropy(head(hidden).float().mT, targets, reduction="none")
        assert mean.dtype == torch.float32
        assert mean.item() == pytest.approx(expected.item(), abs=5e-3)
        found = [*gradients(mean, head, hidden), each]
        ours.append([error(*pair) for pair in zip(found, exact, strict=True)])
        usual_gradients = gradients(usual.sum() / (targets != IGNORED).sum(), head, hidden)
        found = [*usual_gradients, usual.detach()]
        theirs.append([error(*pair) for pair in zip(found, exact, strict=True)])
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


@pytest.mark.parametrize("length", [14, 25])
def test_a_sure_prediction_keeps_its_small_loss_and_slope_in_bfloat16(length):
    """Probabilities of the targets between 0.997 and 1: bf16 holds none but 0.996 and 1, so p - 1 would be noise."""
    head, hidden, targets = linear(128, 64, 300, torch.float32)
    targets.clamp_(min=0)
    head.weight.data = F.normalize(head.weight.data).bfloat16().float()
    hidden.data = (length * head.weight.data[targets]).bfloat16().float()
    expected = plain(head, hidden, targets)
    assert 0 < expected.item() < 2e-3
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


@pytest.mark.parametrize("value", [math.nan, math.inf], ids=str)
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


class Results(TorchDispatchMode):
    """Notes the bytes of the largest tensor that any operation returns, and the shapes of matrix products."""

    def __init__(self):
        super().__init__()
        self.largest, self.products = 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.untyped_storage().nbytes())
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm):
            self.products.add(tuple(made.shape))
        return made


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "bf16"])
def test_all_logits_never_exist_at_once(monkeypatch, half):
    N, D, V = 512, 16, 20_000
    head, hidden, targets = linear(N, D, V, torch.float32)
    monkeypatch.setattr(loss, "KEPT_BYTES", 1 << 21)
    limit = max(loss.KEPT_BYTES, head.weight.nbytes)
    with Results() as usual:
        F.cross_entropy(head(hidden).flatten(0, 1), targets.flatten()).backward()
    assert usual.largest == 4 * N * V > 15 * limit
    with Results() as ours, torch.autocast("cpu", torch.bfloat16, enabled=half):
        mean = head_loss(head, hidden, targets)
        mean.backward()
    assert ours.largest <= limit
    assert mean.item() == pytest.approx(plain(head, hidden, targets).item(), abs=5e-3)
    with Results() as scored, torch.no_grad():
        head_loss(head, hidden, targets, "none")
    assert scored.largest <= 4 * N * loss.IDS_AT_ONCE


NOT_PLAIN = {
    "biased": lambda head: setattr(head, "bias", nn.Parameter(torch.randn(11, dtype=torch.float64))),
    "normed": weight_norm,
    "hooked": lambda head: head.register_forward_hook(lambda module, given, logits: 2 * logits),
    "prehooked": lambda head: head.register_forward_pre_hook(lambda module, given: (2 * given[0],)),
    "replaced": lambda head: setattr(head, "forward", lambda x: 2 * F.linear(x, head.weight)),
}


@pytest.mark.parametrize("change", NOT_PLAIN)
def test_a_head_that_is_not_plain_is_called(change):
    head, hidden, targets = linear(10, 6, 11)
    NOT_PLAIN[change](head)
    expected, found = F.cross_entropy(head(hidden).mT, targets), head_loss(head, hidden, targets)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    learning = (hidden, *head.parameters())
    for mine, wanted in zip(*(torch.autograd.grad(of, learning) for of in (found, expected)), strict=True):
        torch.testing.assert_close(mine, wanted, atol=1e-12, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(head_loss(head, hidden, targets), expected, atol=1e-12, rtol=0)
        assert change == "normed" or (plain(head, hidden, targets) - expected).abs() > 1e-3


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("kind", ["lora", "rslora", "dora"])
def test_an_adapter_on_the_head_is_as_peft_calls_it(small_blocks, tiny, kind, dropout):
    """In float64 losses and gradients agree with those of the logits that PEFT's own layer makes."""
    model = tiny(tie_embeddings=False).double()
    lora = settings(kind=kind, dropout=dropout, target_modules=["lm_head"])
    head = fill(attach_adapter(model, lora, 1)).train().get_base_model().lm_head.double()
    hidden = torch.randn(2, 7, 16, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(len(head.weight), (2, 7))
    targets[0, 2] = IGNORED
    learned = [hidden, *(p for p in head.parameters() if p.requires_grad)]
    assert len(learned) == (4 if kind == "dora" else 3)

    def loss_of(of) -> torch.Tensor:
        torch.manual_seed(3)  # the same elements drop
        return of()

    exact = loss_of(lambda: F.cross_entropy(head(hidden).mT, targets))
    with Results() as seen:
        found = loss_of(lambda: head_loss(head, hidden, targets))
        mine = torch.autograd.grad(found, learned)
    torch.testing.assert_close(found, exact, atol=1e-12, rtol=0)
    for grad, wanted in zip(mine, torch.autograd.grad(exact, learned), strict=True):
        assert wanted.norm() > 1e-4
        torch.testing.assert_close(grad, wanted, atol=1e-12, rtol=1e-10)
    assert (len(head.weight), 16) not in seen.products or kind == "dora"  # no product for the frozen weight's gradient
    with torch.no_grad():
        head.eval()
        each = F.cross_entropy(head(hidden).mT, targets, reduction="none")
        torch.testing.assert_close(head_loss(head, hidden, targets, "none"), each, atol=1e-12, rtol=0)


@pytest.mark.parametrize("tied", [True, False])
def test_trained_rows_of_the_head_learn_and_the_others_do_not(tiny, tied):
    """By algebra in float64: the logits' weight has the adapter's rows, whose gradient is that of these rows alone."""
    model = tiny(tie_embeddings=tied)
    adapted, rows = fill(attach_adapter(model, settings(target_modules="all"), 1, TOKENS)), torch.tensor(TOKENS)
    ids = ids_of(model)
    targets = ids.flip(0)
    adapted(ids, targets).backward()
    hidden = model.hidden(ids)
    delta = (model.get_input_embeddings() if tied else model.lm_head).token_adapter.trainable_tokens_delta["default"]
    through_hidden = torch.zeros_like(delta)
    if tied:  # the embedding's part, through PEFT's own layer with the head fixed
        logits = F.linear(hidden, model.lm_head.weight.detach())
        (through_hidden,) = torch.autograd.grad(F.cross_entropy(logits.mT, targets), delta)
    trained = delta.detach().double().requires_grad_()
    weight = model.lm_head.original_module.weight.double().index_copy(0, rows, trained)
    F.cross_entropy((hidden.detach().double() @ weight.T).mT, targets).backward()
    torch.testing.assert_close(delta.grad - through_hidden, trained.grad.float(), atol=1e-6, rtol=1e-4)
    assert model.lm_head.original_module.weight.grad is None


def test_a_frozen_head_costs_no_product_for_its_gradient(tiny):
    model = tiny()
    ids = ids_of(model)

    def products(model) -> set[tuple[int, ...]]:
        with Results() as seen:
            model(ids, ids).backward()
        return seen.products

    V, C = model.lm_head.weight.shape
    assert (V, C) in products(model)
    model.zero_grad()
    adapted = fill(attach_adapter(model, settings(), 1))
    assert "lm_head" not in check_adapter(model, settings())
    seen = products(adapted)
    assert (V, C) not in seen and (ids.numel(), V) in seen
    assert model.lm_head.weight.grad is None
