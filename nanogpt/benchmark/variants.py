"""The training steps that are timed: this project's, and plain PyTorch's as the yardstick."""

import os
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from nanogpt.benchmark.settings import BenchmarkSettings
from nanogpt.benchmark.timing import Step, Steps
from nanogpt.hardware.compilation import compile_cached
from nanogpt.hardware.device import Dtype, autocast, choose_dtype, configure_torch, set_threads
from nanogpt.lora.attach import attach_adapter
from nanogpt.lora.settings import LoraSettings
from nanogpt.model.build import build_model
from nanogpt.training.optimizer import build_adamw
from nanogpt.training.step import compile_loss, update

CPU = torch.device("cpu")
Batch = tuple[torch.Tensor, torch.Tensor]
DTYPES: dict[str, Dtype] = {"fp32": "float32", "bf16": "bfloat16"}
ADAPTER = LoraSettings(
    r=8, alpha=8.0, dropout=0.0, target_modules="all-linear", kind="lora",
    max_steps=2, max_minutes=None, batch_size=1, replay=0.0, optimizer="adamw", lr=1e-4, min_lr=1e-5, warmup_steps=0,
)  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """One way to train. `plain` is the yardstick: the model with `F.cross_entropy` and torch's own AdamW.

    With `adapter` that is trained, of the targets "all" with the rows of so many `tokens`. `isa` is a value of
    ONEDNN_MAX_CPU_ISA.
    """

    arch: Literal["base", "optimized"]
    dtype: Dtype
    compile: bool = False
    plain: bool = False
    adapter: LoraSettings | None = None
    tokens: int = 0
    isa: str | None = None


def build_training_step(name: str, variant: Variant, settings: BenchmarkSettings) -> Steps:
    """Build a training step on one batch of random tokens, and set up this process for it."""
    if variant.isa:
        os.environ["ONEDNN_MAX_CPU_ISA"] = variant.isa  # oneDNN reads it before its first product
    batch = random_batch(settings)
    model = build_model(settings.config(variant.arch))
    build = build_plain_step if variant.plain else build_own_step
    return {name: build(model, variant, settings, batch)}


def random_batch(settings: BenchmarkSettings) -> Batch:
    """Ids and targets, each (B, T) int64. Seeds torch, so that they and the model built next are always the same."""
    torch.manual_seed(0)
    tokens = torch.randint(settings.vocab_size, (settings.batch_size, settings.block_size + 1))
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def build_plain_step(model: nn.Module, variant: Variant, settings: BenchmarkSettings, batch: Batch) -> Step:
    """Build a step as a short PyTorch program takes it, with none of this project's settings of torch."""
    set_threads(settings.threads)
    ids, targets = batch
    dtype = choose_dtype(variant.dtype, CPU)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, foreach=True)

    def loss() -> torch.Tensor:
        return F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())

    forward = compile_cached(loss) if variant.compile else loss

    def step() -> None:
        with autocast(CPU, dtype):
            mean = forward()
        mean.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def build_own_step(model: nn.Module, variant: Variant, settings: BenchmarkSettings, batch: Batch) -> Step:
    """Build a step as the training loop takes it."""
    configure_torch(settings.threads)
    dtype = choose_dtype(variant.dtype, CPU)
    if variant.adapter:
        attach_adapter(model, variant.adapter, 0, range(variant.tokens)).train()
    optimizer = build_adamw(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1)
    loss_of = compile_loss(model) if variant.compile else model
    return lambda: update(loss_of, optimizer, [batch], 1.0, CPU, dtype)
