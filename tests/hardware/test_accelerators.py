"""The same training on a GPU, where there is one."""

import copy

import numpy as np
import pytest
import torch

from nanogpt.data.tokens.batches import Windows
from nanogpt.data.tokens.bins import Bin, Counts
from nanogpt.hardware.device import autocast, choose_dtype
from nanogpt.model.build import build_model
from nanogpt.model.config import ModelConfig
from nanogpt.training.loop import train

CONFIG = {"n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 256, "block_size": 64, "dropout": 0.0, "qk_norm": False}


def needs(device: str):
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[device]
    return pytest.param(device, marks=pytest.mark.skipif(not there, reason=f"no {device} device on this machine"))


@pytest.mark.parametrize("device", [needs("cuda"), needs("mps")])
@pytest.mark.parametrize("arch", ["base", "optimized"])
def test_a_gpu_learns_what_the_cpu_learns(arch, device, training):
    torch.manual_seed(0)
    here = build_model(ModelConfig(arch=arch, **CONFIG, tie_embeddings=False, vocab_size=512))
    there = copy.deepcopy(here)
    tokens = np.random.default_rng(0).zipf(1.5, 20_000).clip(max=511).astype(np.uint16)
    windows = Windows(Bin("test", "train", tokens, 511, Counts()), 64, 1)
    settings = training(max_steps=50, log_every=1, eval_every=50)
    expected = train(here, windows, windows, settings, 1).train_losses
    for dtype, tolerance in (("float32", 0.002), ("auto", 0.01)):
        model = copy.deepcopy(there)
        run = train(model, windows, windows, training(**vars(settings) | {"device": device, "dtype": dtype}), 1)
        np.testing.assert_allclose(run.train_losses, expected, rtol=tolerance)
        assert next(model.parameters()).device.type == device


@pytest.mark.parametrize("device", [needs("cuda")])
@pytest.mark.parametrize("arch", ["base", "optimized"])
def test_cuda_takes_its_fast_paths(arch, device):
    """bf16 and flash attention: with every other kernel forbidden, the model still runs both ways."""
    assert choose_dtype("auto", torch.device(device)) == torch.bfloat16
    model = build_model(ModelConfig(arch=arch, **CONFIG, tie_embeddings=False, vocab_size=512)).to(device)
    ids = torch.randint(512, (2, 64), device=device)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
        with autocast(torch.device(device), torch.bfloat16):
            loss = model(ids, ids)
        loss.backward()
    assert loss.isfinite()
