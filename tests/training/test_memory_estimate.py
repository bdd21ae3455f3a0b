import copy
import json
import subprocess
import sys

import pytest
import torch

from nanogpt.hardware.device import autocast
from nanogpt.hardware.memory import peak_mib
from nanogpt.lora.attach import attach_adapter
from nanogpt.lora.settings import LoraSettings
from nanogpt.model.config import ModelConfig
from nanogpt.model.loss import head_loss
from nanogpt.runtime.errors import UserError
from nanogpt.training import memory_estimate
from nanogpt.training.memory_estimate import check_memory, check_weights_fit, estimate_training_mib

FP32, BF16, CPU = torch.float32, torch.bfloat16, torch.device("cpu")
SHAPE = {"n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 64, "block_size": 64}


def adapted(model, targets="all", kind="lora"):
    return attach_adapter(model, LoraSettings(4, 4.0, 0.0, targets, kind, 10, 4, 1e-3, 1e-4, 0), 1)


@pytest.mark.parametrize("dtype", [FP32, BF16])
@pytest.mark.parametrize(
    ("arch", "changed", "adapter"),
    [
        ("base", {}, None),
        ("base", {"dropout": 0.1}, "all-linear"),
        ("base", {"block_size": 640}, "all"),
        ("optimized", {}, "all"),
        ("optimized", {"dropout": 0.1, "block_size": 640}, None),
    ],
)
def test_the_rehearsed_step_takes_what_a_real_one_takes(tiny, arch, dtype, changed, adapter):
    model = tiny(arch, **SHAPE | changed)
    model = adapted(model, adapter) if adapter else model
    ids = torch.zeros(4, model.config.block_size, dtype=torch.int64)
    with memory_estimate._Memory() as memory:
        with autocast(CPU, dtype):
            loss = model(ids, ids)
        loss.backward()
    assert 0.98 <= memory_estimate._in_use(model, 4, dtype) / memory.peak <= 1.15


@pytest.mark.parametrize("dtype", [FP32, BF16])
@pytest.mark.parametrize("kept", [1 << 28, 1 << 18])
def test_a_plain_head_takes_what_is_said_of_it(monkeypatch, dtype, kept):
    for module in ("nanogpt.model.loss", "nanogpt.training.memory_estimate"):
        monkeypatch.setattr(f"{module}.KEPT_BYTES", kept)
    head, hidden = torch.nn.Linear(128, 5000, bias=False), torch.randn(4, 64, 128, requires_grad=True)
    with memory_estimate._Memory() as memory:
        with autocast(CPU, dtype):
            loss = head_loss(head, hidden, torch.zeros(4, 64, dtype=torch.int64))
        loss.backward()
    assert memory_estimate._fused_head(head, 256, dtype) == pytest.approx(memory.peak, rel=0.1)


@pytest.mark.parametrize("dtype", [FP32, BF16])
@pytest.mark.parametrize("arch", ["base", "optimized"])
@pytest.mark.parametrize("adapter", [None, "all"])
def test_the_rehearsed_scoring_takes_what_a_real_one_takes(tiny, arch, dtype, adapter):
    model = tiny(arch, **SHAPE | {"vocab_size": 5000})
    model = (adapted(model, adapter) if adapter else model).eval()
    ids = torch.zeros(32, 64, dtype=torch.int64)
    with memory_estimate._Memory() as memory, torch.no_grad(), autocast(CPU, dtype):
        model(ids, ids, reduction="none")
    assert 0.98 <= memory_estimate._in_use(model, 32, dtype, score=True) / memory.peak <= 1.25


def test_where_a_step_is_small_scoring_counts(tiny):
    model = tiny(**SHAPE | {"n_embd": 256})
    one, few = (estimate_training_mib(model, rows, FP32) for rows in (1, 2))
    assert one == few
    assert one - memory_estimate.IMPORTS / 2**20 > 2048 * 4 * 256 * 4 / 2**20  # what an MLP widens 2,048 tokens to
    assert estimate_training_mib(model, 64, FP32) > 1.5 * one


def test_a_shape_that_is_too_large_is_known_before_it_is_made():
    shape = ModelConfig("base", 48, 64, 64, 16384, 64, 0.0, False, 320)
    before = peak_mib()
    with pytest.raises(UserError, match=r"too large .* its weights alone take about 57\d\.\d\d GiB, and"):
        check_weights_fit(shape)  # 48 layers of 12 C², 4 bytes for each
    assert peak_mib() < before + 50
    check_weights_fit(shape, free_mib=3e6)


def test_memory_in_use_is_followed_through_views_and_ends():
    with memory_estimate._Memory() as memory:
        a = torch.zeros(1 << 18)  # 1 MiB
        b = a[:9].add_(1)
        del a
        assert memory.now == memory.peak == 1 << 20  # b needs all of it
        c = torch.ones(1 << 19)
        del b
        torch.ones(1 << 18)
    assert (memory.now, memory.peak) == (c.nbytes, 3 << 20)


def test_the_model_is_as_it_was(tiny):
    model = adapted(tiny("optimized", dropout=0.1)).train()
    model.lm_head.eval()
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    learning = [p.requires_grad for p in model.parameters()]
    random = torch.get_rng_state()
    estimate_training_mib(model, 4, BF16)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == learning
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_to_estimate_takes_no_memory(tiny):
    estimate_training_mib(tiny(), 4, FP32)  # imports
    before = peak_mib()
    assert estimate_training_mib(tiny(), 1 << 24, FP32) > 100 << 10  # of GiB
    assert peak_mib() < before + 50


@pytest.mark.parametrize("arch", ["base", "optimized"])
def test_more_of_anything_takes_more(tiny, arch):
    def mib(batch_size: int = 32, dtype: torch.dtype = FP32, **changed) -> float:
        return estimate_training_mib(tiny(arch, **SHAPE | changed), batch_size, dtype)

    for key, values in {
        "batch_size": (16, 32, 128),
        "block_size": (64, 128, 512),
        "n_layer": (1, 2, 4),
        "n_embd": (64, 128, 256),
        "vocab_size": (320, 2048, 50304),
        "dropout": (0.0, 0.1),
    }.items():
        figures = [mib(**{key: value}) for value in values]
        assert figures == sorted(set(figures)), key
    assert mib(dtype=BF16, batch_size=128) < mib(batch_size=128)


def test_the_plain_products_of_short_blocks_take_more_than_the_flash_kernel(tiny):
    """For the same number of tokens: the matrices (B, H, T, T) are there up to 512 positions."""
    short, long = (estimate_training_mib(tiny(**SHAPE | {"block_size": T}), 8192 // T, FP32) for T in (512, 1024))
    assert long < short


def test_frozen_weights_have_neither_gradients_nor_moments(tiny):
    model = tiny(vocab_size=50304, n_embd=64)
    weights = sum(p.nbytes for p in model.parameters()) / 2**20
    whole = estimate_training_mib(model, 128, FP32)
    assert estimate_training_mib(adapted(model, "all-linear"), 128, FP32) < whole - 3 * weights


def test_an_adapted_head_has_all_logits(tiny):
    without, within = (
        estimate_training_mib(adapted(tiny(vocab_size=50304), kind), 64, FP32) for kind in ("all-linear", "all")
    )
    assert within - without > 4 * 64 * 16 * 50304 * 4 / 2**20  # several copies in fp32


@pytest.fixture
def large(tiny):
    return tiny(vocab_size=50304, block_size=64)


def needed(model, batch_size: int) -> float:
    return estimate_training_mib(model, batch_size, FP32)


def test_the_batch_size_that_is_advised_fits_and_learns_the_same(large):
    free = needed(large, 8)
    advice = (
        r"train\.batch_size = 64: training takes about \d\.\d\d GiB of memory, and \d\.\d\d GiB are free; "
        r"train\.batch_size = 8 with train\.grad_accum = 16, which learns the same, takes \d\.\d\d GiB"
    )
    with pytest.raises(UserError, match=advice):
        check_memory(large, 64, 2, FP32, free_mib=free)
    check_memory(large, 8, 16, FP32, free_mib=free)
    with pytest.raises(UserError, match=r"train\.batch_size = 4 with train\.grad_accum = 32, "):
        check_memory(large, 8, 16, FP32, free_mib=free - 0.01)


@pytest.mark.parametrize(
    ("batch_size", "fits", "advised"), [(12, 11, 6), (12, 5, 4), (12, 1, 1), (15, 8, 5), (7, 6, 1)]
)
def test_the_advice_divides_the_batch(large, batch_size, fits, advised):
    with pytest.raises(UserError, match=rf"batch_size = {advised} with train\.grad_accum = {batch_size // advised}, "):
        check_memory(large, batch_size, 1, FP32, free_mib=needed(large, fits))


def test_the_advice_is_for_the_section_that_sets_the_batch(large):
    model = adapted(large)
    # lora has no grad_accum of its own, and another train.grad_accum would have the base trained again
    with pytest.raises(UserError, match=r"^lora\.batch_size = 8: .*; lora\.batch_size = 2 takes \d\.\d\d GiB$"):
        check_memory(model, 8, 3, FP32, "lora", free_mib=needed(model, 2))


def test_a_model_that_is_too_large(large):
    with pytest.raises(UserError, match=r"too large .* even train\.batch_size = 1 takes .* model\.n_embd, n_layer"):
        check_memory(large, 8, 1, FP32, free_mib=needed(large, 1) - 0.01)


def test_what_is_free_is_asked_of_the_system(large, monkeypatch):
    check_memory(large, 1, 1, FP32)
    monkeypatch.setattr("nanogpt.hardware.memory.available_mib", lambda: 10.0)
    with pytest.raises(UserError, match=r"0\.01 GiB are free"):
        check_memory(large, 1, 1, FP32)


REAL = """
import json, sys
import numpy as np, psutil, torch
from nanogpt.lora.attach import attach_adapter
from nanogpt.lora.settings import LoraSettings
from nanogpt.training import memory_estimate
from nanogpt.model.score import score_documents
from nanogpt.hardware import memory
from nanogpt.hardware.device import autocast_to
from nanogpt.model.build import build_model
from nanogpt.model.config import ModelConfig
from nanogpt.training.loop import train
from nanogpt.training.settings import TrainSettings
from nanogpt.data.tokens.bins import Bin
from nanogpt.data.tokens.bins import Counts
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
documents = [tokens[i * 500 :][: 20 + 9 * i] for i in range(60)]
with autocast_to(settings.dtype, torch.device("cpu")):
    score_documents(net, documents, np.ones(config.vocab_size, np.int64))
import pandas  # as a stage does then
print(expected, memory.peak_mib())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "batch_size", "dtype", "targets"),
    [
        ({"n_layer": 2, "vocab_size": 50304}, 4, "float32", None),
        ({"n_layer": 4, "block_size": 512, "dropout": 0.1}, 8, "bfloat16", None),
        ({"arch": "optimized", "n_layer": 4, "block_size": 1024}, 4, "float32", None),
        ({"arch": "optimized", "n_layer": 4}, 16, "float32", "all-linear"),
        ({"n_layer": 6, "n_embd": 512, "block_size": 64, "vocab_size": 512}, 2, "float32", None),
    ],
)
def test_the_peak_of_a_real_run(training, changed, batch_size, dtype, targets):
    config = {"arch": "base", "n_head": 4, "n_kv_head": 2, "n_embd": 256, "block_size": 256, "dropout": 0.0}
    config |= {"tie_embeddings": True, "vocab_size": 2048} | changed
    settings = training(max_steps=4, eval_every=2, batch_size=batch_size, dtype=dtype, warmup_steps=0, threads=2)
    done = subprocess.run(
        [sys.executable, "-c", REAL, json.dumps([config, vars(settings), targets])],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    expected, peak = map(float, done.stdout.split())
    assert expected == pytest.approx(peak, rel=0.3)
