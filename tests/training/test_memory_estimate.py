import json
import subprocess
import sys

import pytest
import torch
from killed import run

from nanogpt.model.build import count_parameters
from nanogpt.model.config import ModelConfig
from nanogpt.runtime.errors import BadSetting, UserError
from nanogpt.training import memory_estimate
from nanogpt.training.memory_estimate import check_minimum, estimate_training_mib


@pytest.mark.parametrize("arch", ["base", "optimized"])
@pytest.mark.parametrize("frozen", [False, True])
def test_the_minimum_is_weights_gradients_moments_and_the_input_of_each_block(tiny, arch, frozen):
    model = tiny(arch, n_layer=3)
    weights, row = count_parameters(model), 4 * model.config.block_size * model.config.n_embd
    needed = (4 * weights + 8 * row if frozen else 16 * weights + 3 * 8 * row) / 2**20
    check_minimum(model.config, 8, "lora", frozen, needed)
    with pytest.raises(BadSetting, match=r"^lora\.batch_size = 8: .* choose less than 8; train\.grad_accum"):
        check_minimum(model.config, 8, "lora", frozen, needed - 1e-4)
    with pytest.raises(
        UserError, match=r"^the model of section lora is too large .* smaller n_embd, n_layer or block_size"
    ):
        check_minimum(model.config, 8, "lora", frozen, needed / 100)


@pytest.mark.parametrize("shape", [(10**9, 64, 16384), (2, 10**9, 16), (2, 10**30, 16), (2, 64, 10**18)])
def test_absurd_shapes_are_refused_at_once(shape):
    n_layer, n_embd, block_size = shape
    with pytest.raises(UserError, match="the model of section train is too large"):
        check_minimum(ModelConfig("base", n_layer, 2, 2, n_embd, block_size, 0.0, False, 320))


def test_a_run_that_may_not_fit_starts_with_a_warning(tiny, training, monkeypatch, capsys, inside):
    fits = estimate_training_mib(tiny(), 4, torch.float32) / memory_estimate.WARN_ABOVE
    monkeypatch.setattr("nanogpt.hardware.memory.available_mib", lambda: 1.01 * fits)
    run(tiny(), training(max_steps=1, warmup_steps=0))
    assert "warning" not in capsys.readouterr().err
    monkeypatch.setattr("nanogpt.hardware.memory.available_mib", lambda: 0.99 * fits)
    run(tiny(), training(max_steps=1, warmup_steps=0), inputs={"another": 1})
    assert "warning: training takes about" in capsys.readouterr().err
    monkeypatch.setattr("nanogpt.hardware.memory.available_mib", lambda: 10.0)
    with pytest.raises(BadSetting, match=r"^train\.batch_size = 100000: "):
        run(tiny(), training(max_steps=1, warmup_steps=0, batch_size=100_000))


REAL = """
import json, sys
import numpy as np, psutil, torch
from nanogpt.lora.attach import attach_adapter
from nanogpt.lora.settings import LoraSettings
from nanogpt.training import memory_estimate
from nanogpt.hardware import memory
from nanogpt.model.build import build_model
from nanogpt.model.config import ModelConfig
from nanogpt.training.loop import train
from nanogpt.training.settings import TrainSettings
from nanogpt.data.tokens.bins import Bin, Counts
from nanogpt.data.tokens.batches import Windows

config, settings, targets = json.loads(sys.argv[1])
config, settings = ModelConfig(**config), TrainSettings(**settings)
net = build_model(config)
if targets:
    net = attach_adapter(net, LoraSettings(32, 32.0, 0.0, targets, "lora", 10, 4, 1e-3, 1e-4, 0), 1)
tokens = np.random.default_rng(0).integers(config.vocab_size, size=40_000).astype(np.uint16)
windows = Windows(Bin("test", "train", tokens, 0, Counts(1, len(tokens), len(tokens))), config.block_size, 1)
held = psutil.Process().memory_info().rss / 2**20
expected = held + memory_estimate.estimate_training_mib(net, settings.batch_size, getattr(torch, settings.dtype))
train(net, windows, windows, settings, 1)
print(expected, memory.peak_mib())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "batch_size", "dtype", "targets"),
    [
        ({"n_layer": 2, "vocab_size": 50304}, 4, "bfloat16", None),
        ({"arch": "optimized", "n_layer": 4, "vocab_size": 4096}, 8, "float32", "all"),
    ],
)
def test_the_peak_of_a_real_run(training, changed, batch_size, dtype, targets):
    config = {"arch": "base", "n_head": 4, "n_kv_head": 2, "n_embd": 256, "block_size": 256, "dropout": 0.0}
    config |= {"tie_embeddings": True, "vocab_size": 2048} | changed
    settings = training(max_steps=2, eval_every=2, batch_size=batch_size, dtype=dtype, warmup_steps=0, threads=2)
    done = subprocess.run(
        [sys.executable, "-c", REAL, json.dumps([config, vars(settings), targets])],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    expected, peak = map(float, done.stdout.split())
    assert expected == pytest.approx(peak, rel=0.4)
