import pytest
import torch
from killed import run

from nanogpt.lora.attach import attach_adapter
from nanogpt.lora.settings import LoraSettings
from nanogpt.model.build import build_model, count_parameters
from nanogpt.model.config import ModelConfig
from nanogpt.runtime.errors import BadSetting, UserError
from nanogpt.training import memory_estimate
from nanogpt.training.memory_estimate import check_minimum, estimate_training_mib


@pytest.mark.parametrize("arch", ["base", "optimized"])
@pytest.mark.parametrize("frozen", [False, True])
def test_the_minimum_is_weights_gradients_one_moment_and_the_input_of_each_block(tiny, arch, frozen):
    model = tiny(arch, n_layer=3)
    weights, row = count_parameters(model), 4 * model.config.block_size * model.config.n_embd
    needed = (4 * weights + 8 * row if frozen else 12 * weights + 3 * 8 * row) / 2**20
    check_minimum(model.config, 8, "lora", frozen, needed)
    with pytest.raises(BadSetting, match=r"^lora\.batch_size = 8: .* choose less than 8; train\.grad_accum"):
        check_minimum(model.config, 8, "lora", frozen, needed - 1e-4)
    with pytest.raises(UserError, match=r"^the model of section lora is too large .* smaller n_embd, n_layer or bl"):
        check_minimum(model.config, 8, "lora", frozen, needed / 100)


@pytest.mark.parametrize("shape", [(10**9, 64, 16384), (2, 10**9, 16), (2, 10**30, 16), (2, 64, 10**18)])
def test_absurd_shapes_are_refused_at_once(shape):
    n_layer, n_embd, block_size = shape
    with pytest.raises(UserError, match="the model of section train is too large"):
        check_minimum(ModelConfig("base", n_layer, 2, 2, n_embd, block_size, 0.0, False, False, 320))


def test_a_run_that_may_not_fit_starts_with_a_warning(tiny, training, monkeypatch, capsys, inside):
    fits = estimate_training_mib(tiny(), 4, torch.float32) / memory_estimate.WARN_ABOVE
    monkeypatch.setattr("nanogpt.hardware.memory.available_mib", lambda: 1.01 * fits)
    run(tiny(), training(max_steps=1, warmup_steps=0))
    assert "warning" not in capsys.readouterr().err
    monkeypatch.setattr("nanogpt.hardware.memory.available_mib", lambda: 0.99 * fits)
    run(tiny(), training(max_steps=1, warmup_steps=0), inputs={"another": 1})
    gib = f"{estimate_training_mib(tiny(), 4, torch.float32) / 1024:.2f} GiB"
    assert f"warning: training takes about {gib}" in capsys.readouterr().err
    monkeypatch.setattr("nanogpt.hardware.memory.available_mib", lambda: 10.0)
    with pytest.raises(BadSetting, match=r"^train\.batch_size = 100000: "):
        run(tiny(), training(max_steps=1, warmup_steps=0, batch_size=100_000))


@pytest.mark.parametrize(
    ("changed", "batch_size", "dtype", "targets", "peak_mib"),
    [
        ({"n_layer": 2, "vocab_size": 50304}, 4, torch.bfloat16, None, 432),
        ({"arch": "optimized", "n_layer": 4, "vocab_size": 8192}, 16, torch.float32, "all", 1085),
    ],
)
def test_the_estimate_is_close_to_measured_peaks(changed, batch_size, dtype, targets, peak_mib):
    """The peaks are what two steps and validation added to a process on two threads of a CPU with AVX512-BF16."""
    config = {"arch": "base", "n_head": 4, "n_kv_head": 2, "n_embd": 256, "block_size": 256, "dropout": 0.0}
    model = build_model(ModelConfig(**config | {"tie_embeddings": True, "qk_norm": False} | changed))
    if targets:
        model = attach_adapter(
            model, LoraSettings(32, 32.0, 0.0, targets, "lora", 10, None, 4, 0.0, "adamw", 1e-3, 1e-4, 0), 1
        )
    assert estimate_training_mib(model, batch_size, dtype) == pytest.approx(peak_mib, rel=0.4)
