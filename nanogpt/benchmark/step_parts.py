"""Where a training step's time goes: each part of a model forwards and backwards."""

from collections.abc import Callable
from functools import partial

import pandas as pd
import torch
from torch import Tensor, nn

from nanogpt.benchmark.settings import BenchmarkSettings
from nanogpt.benchmark.timing import Steps, time_in_turns
from nanogpt.benchmark.variants import CPU, DTYPES
from nanogpt.hardware.device import Dtype, autocast, choose_dtype, configure_torch
from nanogpt.model import llama
from nanogpt.model.build import build_model
from nanogpt.model.loss import IDS_AT_ONCE, head_loss
from nanogpt.training.optimizer import build_adamw


def benchmark(settings: BenchmarkSettings) -> dict[str, dict[str, dict[str, float]]]:
    """`parts_ms`: of both architectures in both dtypes, each part of an uncompiled step."""
    entries = {
        f"{arch}_{short}": partial(parts, f"{arch}_{short}.", arch, dtype, settings)
        for arch in ("base", "optimized")
        for short, dtype in DTYPES.items()
    }
    return {"parts_ms": nested(time_in_turns(entries, settings.num_iters).medians)}


def table(figures: dict[str, dict[str, dict[str, float]]]) -> str:
    """The figures as aligned lines for a terminal."""
    return "\n\n".join(f"{name}\n{pd.DataFrame(columns).round(2).to_string()}" for name, columns in figures.items())


def nested(medians: dict[str, float]) -> dict[str, dict[str, float]]:
    """Milliseconds by variant and step, from seconds by "variant.step"."""
    ms: dict[str, dict[str, float]] = {}
    for name, seconds in medians.items():
        variant, step = name.split(".")
        ms.setdefault(variant, {})[step] = 1e3 * seconds
    return ms


def parts(prefix: str, arch: str, dtype: Dtype, settings: BenchmarkSettings) -> Steps:
    """The parts of a step: embedding, all attention and all MLPs with their norms, head with loss, optimizer."""
    configure_torch(settings.threads)
    torch.manual_seed(0)
    model = build_model(settings.config(arch))
    shape = settings.batch_size, settings.block_size
    ids, targets = torch.randint(settings.vocab_size, (2, *shape))
    x, grad = torch.randn(2, *shape, settings.n_embd)
    x.requires_grad_()
    positions = torch.arange(settings.block_size)
    if arch == "base":
        body, embedding = model.transformer, model.transformer.wte
        forwards = {
            "embedding": lambda: embedding(ids) + body.wpe(positions),
            "attention": lambda: sum(block.attn(block.ln_1(x), None) for block in body.h),
            "mlp": lambda: sum(block.mlp(block.ln_2(x)) for block in body.h),
        }
    else:
        body, embedding = model.model, model.model.embed_tokens
        cos_sin = llama.rope_cos_sin(0, settings.block_size, model.config.head_dim, CPU)
        forwards = {
            "embedding": lambda: embedding(ids),
            "attention": lambda: sum(layer.self_attn(layer.input_layernorm(x), cos_sin, None) for layer in body.layers),
            "mlp": lambda: sum(layer.mlp(layer.post_attention_layernorm(x)) for layer in body.layers),
        }
    steps = {
        f"{prefix}{part}": both_ways(forward, grad, dtype, [*model.parameters(), x])
        for part, forward in forwards.items()
    }
    steps[f"{prefix}head_loss"] = both_ways(
        lambda: head_loss(model.lm_head, x, targets), None, dtype, [model.lm_head.weight, x]
    )
    return steps | {f"{prefix}optimizer": _optimizer(settings, arch)}


def products(name: str, dtype: Dtype, settings: BenchmarkSettings) -> Steps:
    """The head's three products alone, in the blocks of `head_loss` and into memory that is there already."""
    configure_torch(settings.threads)
    kind, N, D = choose_dtype(dtype, CPU), settings.tokens, settings.n_embd
    h, w = torch.randn(N, D).to(kind), torch.randn(settings.vocab_size, D).to(kind)
    blocks = [(rows, torch.empty(N, len(rows), dtype=kind), torch.empty_like(rows)) for rows in w.split(IDS_AT_ONCE)]
    grad = torch.empty_like(h)

    def step() -> None:
        for rows, logits, _ in blocks:
            torch.mm(h, rows.T, out=logits)
        for rows, logits, grad_rows in blocks:
            torch.mm(logits, rows, out=grad)
            torch.mm(logits.T, h, out=grad_rows)

    return {name: step}


def matrix(dtypes: dict[str, Dtype], settings: BenchmarkSettings, size: int) -> Steps:
    """A square product of `size` in each dtype, by name: the rate that utilisation is measured against."""
    configure_torch(settings.threads)

    def product(dtype: torch.dtype) -> Callable[[], Tensor]:
        a, b = torch.randn(2, size, size).to(dtype)
        out = torch.empty(size, size, dtype=dtype)
        return lambda: torch.mm(a, b, out=out)

    return {name: product(choose_dtype(dtype, CPU)) for name, dtype in dtypes.items()}


def both_ways(
    forward: Callable[[], Tensor], grad: Tensor | None, dtype: Dtype, leaves: list[Tensor]
) -> Callable[[], None]:
    """A step that goes `forward` and back from `grad`, None for a scalar; the gradients of `leaves` are not kept."""
    kind = choose_dtype(dtype, CPU)

    def step() -> None:
        with autocast(CPU, kind):
            out = forward()
        out.backward(grad)
        for leaf in leaves:
            leaf.grad = None

    return step


def _optimizer(settings: BenchmarkSettings, arch: str) -> Callable[[], None]:
    """Clipping and AdamW on a whole model of its own."""
    model = build_model(settings.config(arch))
    optimizer = build_adamw(model, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)

    def step() -> None:
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step
