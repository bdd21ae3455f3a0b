"""The layer's arithmetic against PEFT's own, which computes the same in another order."""

import pytest
import torch
from adapters import fill, ids_of, settings
from peft.tuners.lora import Linear

from nanogpt.lora import layer
from nanogpt.lora.attach import attach_adapter


def train_once(model, monkeypatch, ours: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor], int]:
    """A loss, the gradients of all that learns, and how many layers took the way of one product."""
    calls, apply = [], layer.LoraProduct.apply

    def counted(*args):
        calls.append(args)
        return apply(*args)

    with monkeypatch.context() as patch:
        patch.setattr(layer.LoraProduct, "apply", counted)
        if not ours:
            patch.setattr(layer.LoraLinear, "forward", Linear.forward)
        torch.manual_seed(5)
        ids = ids_of(model)
        loss = model(ids, ids.flip(0))
        loss.backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return loss.detach(), grads, len(calls)


@pytest.mark.parametrize("arch", ["base", "optimized"])
@pytest.mark.parametrize("kind", ["lora", "rslora", "dora"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_losses_and_gradients_are_those_of_peft(tiny, monkeypatch, arch, kind, dropout):
    model = tiny(arch).double()
    attach_adapter(model, settings(kind=kind, dropout=dropout, target_modules="all"), 1)
    fill(model).double().train()
    (mine, grads, products), (theirs, expected, _) = (train_once(model, monkeypatch, ours) for ours in (True, False))
    assert products == (0 if dropout or kind == "dora" else {"base": 4, "optimized": 7}[arch])
    torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=0)
    assert grads.keys() == expected.keys() and len(grads) > 8
    for name, grad in grads.items():
        assert expected[name].norm() > 0, name
        torch.testing.assert_close(grad, expected[name], atol=1e-12, rtol=1e-9)


def test_in_bfloat16_gradients_are_about_those_of_float64(tiny, monkeypatch):
    model = tiny("base", n_embd=64).double()
    fill(attach_adapter(model, settings(), 1)).double().train()
    _, exact, _ = train_once(model, monkeypatch, True)
    model.float()
    with torch.autocast("cpu", torch.bfloat16):
        _, found, products = train_once(model, monkeypatch, True)
    assert products == 4
    for name, grad in found.items():
        assert grad.dtype == torch.float32
        assert (grad.double() - exact[name]).norm() < 0.05 * exact[name].norm(), name


def test_evaluation_and_disabled_adapters_are_pefts(tiny, monkeypatch):
    adapted = fill(attach_adapter(tiny("base"), settings(), 1))
    plain = tiny("base").eval()
    state = adapted.get_base_model().state_dict()
    plain.load_state_dict({name.replace(".base_layer", ""): p for name, p in state.items() if "lora_" not in name})
    monkeypatch.setattr(layer.LoraProduct, "apply", None)
    ids = ids_of(plain)
    with torch.no_grad():
        adapted.train()(ids)
        assert (adapted.eval()(ids) - plain(ids)).abs().max() > 1e-3
    with adapted.train().disable_adapter():
        torch.testing.assert_close(adapted(ids), plain(ids))
