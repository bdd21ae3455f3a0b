"""What both architectures must do."""

import math

import pytest
import torch
from small_models import each_arch, every_shape, lively, tiny, tokens

from nanogpt.model.build import build_model, count_parameters, linear_names, new_model
from nanogpt.model.config import ModelSettings
from nanogpt.model.dropout import Dropout
from nanogpt.runtime.errors import BadSetting


@each_arch
def test_weights_depend_on_the_seed_alone(arch):
    settings = ModelSettings(arch, 2, 4, 2, 32, 16, 0.0, False, False)
    one = new_model(settings, 64, seed=3).state_dict()
    torch.rand(5)
    same, other = new_model(settings, 64, seed=3).state_dict(), new_model(settings, 64, seed=4).state_dict()
    assert all(torch.equal(one[name], same[name]) for name in one)
    drawn = {name for name in one if one[name].dim() == 2 and "wpe" not in name}
    assert drawn == {name for name in one if not torch.equal(one[name], other[name])}


@pytest.mark.parametrize("tied", [False, True])
@each_arch
def test_initial_weights(arch, tied):
    torch.manual_seed(0)
    config = tiny(arch, n_embd=64, vocab_size=128, n_layer=8, block_size=64, tie_embeddings=tied)
    model = build_model(config)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            adds = name.endswith(("c_proj.weight", "o_proj.weight", "down_proj.weight"))
            std = math.sqrt(2 / (5 * 64)) / (4 if adds else 1)  # 8 blocks add 16 terms to the residual stream
            if name.endswith("wpe.weight"):  # sine and cosine of one angle: the same length at every position
                torch.testing.assert_close(parameter.norm(dim=1), torch.full((64,), std * 8))
                continue
            spread = std / math.sqrt(2 * parameter.numel())
            assert abs(parameter.std().item() - std) < 5 * spread, name
        else:
            assert torch.equal(parameter, torch.full_like(parameter, name.endswith("weight"))), name
    ids = tokens(config, rows=4, length=65)
    # independent normal logits of variance 64 std^2 = 0.4 cost half of that above the uniform guess
    assert model(ids[:, :-1], ids[:, 1:]).item() == pytest.approx(math.log(128) + 0.2, abs=0.15)


@pytest.mark.parametrize(("arch", "embedding"), [("base", "transformer.wte"), ("optimized", "model.embed_tokens")])
def test_tied_head_is_the_embedding(arch, embedding):
    tied, untied = (build_model(tiny(arch, tie_embeddings=tie)) for tie in (True, False))
    assert tied.lm_head.weight is tied.get_submodule(embedding).weight
    assert untied.lm_head.weight is not untied.get_submodule(embedding).weight
    assert count_parameters(untied) - count_parameters(tied) == 64 * 32


def test_linear_names():
    assert linear_names(build_model(tiny("base"))) == ["c_attn", "c_proj", "c_fc"]
    attention, mlp = ["q_proj", "k_proj", "v_proj", "o_proj"], ["gate_proj", "up_proj", "down_proj"]
    assert linear_names(build_model(tiny("optimized"))) == attention + mlp


@every_shape
@torch.no_grad()
def test_causality(config):
    model, ids = lively(config), tokens(config)
    logits = model(ids)
    for t in range(config.block_size):
        changed = ids.clone()
        changed[:, t] = (ids[:, t] + 1) % config.vocab_size
        difference = (model(changed) - logits).abs().amax(dim=(0, 2))  # (T,)
        assert (difference[:t] < 1e-6).all()
        assert difference[t:].min() > 1e-3


@every_shape
def test_gradients_are_finite_differences(config):
    model = lively(config).double()
    ids, targets = tokens(config, length=7), tokens(config, length=7, seed=2)
    targets[0, 3] = -100
    loss = model(ids, targets)
    assert loss.dtype == torch.float64
    loss.backward()
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        direction = torch.randn_like(parameter)
        direction /= direction.norm()
        step = 1e-5 * direction
        with torch.no_grad():
            parameter += step
            above = model(ids, targets).item()
            parameter -= 2 * step
            below = model(ids, targets).item()
            parameter += step
        slope = (parameter.grad * direction).sum().item()
        assert parameter.grad.norm() > 1e-3, name
        assert slope == pytest.approx((above - below) / 2e-5, abs=1e-8, rel=1e-6), name


@each_arch
@torch.no_grad()
def test_dropout_acts_in_training_alone(arch):
    plain = lively(tiny(arch))
    model = build_model(tiny(arch, dropout=0.3))
    model.load_state_dict(plain.state_dict())
    ids = tokens(model.config)
    assert torch.equal(model.eval()(ids), plain(ids))
    assert torch.equal(plain.train()(ids), plain.eval()(ids))
    model.train()
    assert (model(ids) - plain(ids)).abs().max() > 0.1


@each_arch
def test_each_dropout_acts_alone(arch):
    model, ids = lively(tiny(arch, dropout=0.5, n_layer=1)).train(), tokens(tiny(arch))
    places = [(m, "p") for m in model.modules() if isinstance(m, Dropout)]
    places += [(m, "dropout") for m in model.modules() if isinstance(getattr(m, "dropout", None), float)]
    assert len(places) == 3  # on the embeddings, on the attention's weights, on what a block adds
    for kept in range(len(places)):
        for i, (module, attribute) in enumerate(places):
            setattr(module, attribute, 0.5 if i == kept else 0.0)
        assert (model(ids) - model(ids)).abs().max() > 0.05, places[kept]


@every_shape
def test_bfloat16_is_near_float32(config):
    model, ids, targets = build_model(config), tokens(config), tokens(config, seed=2)
    torch.manual_seed(0)
    logits, loss = model(ids), model(ids, targets)
    loss.backward()
    exact = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        half_logits, half_loss = model(ids), model(ids, targets)
    half_loss.backward()
    assert (half_logits.dtype, half_loss.dtype) == (torch.bfloat16, torch.float32)
    assert 0 < (half_logits - logits).abs().max() < 0.02 * logits.abs().max()
    assert half_loss.item() == pytest.approx(loss.item(), abs=5e-3)
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert (parameter.grad - exact[name]).norm() < 0.05 * exact[name].norm(), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_layer": 0}, "n_layer = 0: must be at least 1"),
        ({"dropout": 1.0}, "dropout = 1.0: not a probability below 1"),
        ({"n_embd": 34}, "n_embd = 34: 4 heads do not divide it; try 32"),
        ({"n_kv_head": 3}, r"n_kv_head = 3: it does not divide the 4 heads; choose one of \[1, 2, 4\]"),
        ({"n_embd": 20}, "n_embd = 20: heads of odd width 5, .*; try 24"),
    ],
)
def test_impossible_shapes_are_refused(changes, message):
    with pytest.raises(BadSetting, match=message):
        tiny("optimized", **changes)
    if "n_embd" in changes and changes["n_embd"] == 20:
        assert tiny("base", **changes).head_dim == 5  # no rotary positions, no pairs
