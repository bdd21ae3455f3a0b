"""Where a training step's time goes: each part of a model forwards and backwards, and each improvement alone."""

from collections.abc import Callable
from functools import partial

import pandas as pd
import torch
from torch import Tensor, nn

from nanogpt import hardware, optim
from nanogpt.bench.race import Steps, race
from nanogpt.bench.settings import BenchmarkSettings
from nanogpt.bench.variants import CPU
from nanogpt.model import base, build, optimized
from nanogpt.model.loss import IDS_AT_ONCE, head_loss

DTYPES: dict[str, hardware.Dtype] = {"fp32": "float32", "bf16": "bfloat16"}
PAIRS = {"rmsnorm": "layernorm", "gqa": "mha", "swiglu": "gelu", "rope": "learned"}


def benchmark(settings: BenchmarkSettings) -> dict[str, dict[str, dict[str, float]]]:
    """`parts_ms`: of both architectures in both dtypes, each part of an uncompiled step."""
    entries = {
        f"{arch}_{short}": partial(parts, f"{arch}_{short}.", arch, dtype, settings)
        for arch in ("base", "optimized")
        for short, dtype in DTYPES.items()
    }
    return {"parts_ms": _nested(race(entries, settings.num_iters).medians)}


def improvements(settings: BenchmarkSettings) -> dict[str, dict[str, dict[str, float]]]:
    """`layers_ms`: what is new in the optimized architecture and what it stands for in base's place.

    `layer_speedup`: how many times faster the new is, forwards and backwards.
    """
    entries = {short: partial(layers, f"{short}.", dtype, settings) for short, dtype in DTYPES.items()}
    layers_ms = _nested(race(entries, settings.num_iters).medians)
    speedup = {
        short: {f"{new}_over_{old}": ms[old] / ms[new] for new, old in PAIRS.items()} for short, ms in layers_ms.items()
    }
    return {"layers_ms": layers_ms, "layer_speedup": speedup}


def table(figures: dict[str, dict[str, dict[str, float]]]) -> str:
    """The figures as aligned lines for a terminal."""
    return "\n\n".join(f"{name}\n{pd.DataFrame(columns).round(2).to_string()}" for name, columns in figures.items())


def _nested(medians: dict[str, float]) -> dict[str, dict[str, float]]:
    """Milliseconds by variant and step, from seconds by "variant.step"."""
    nested: dict[str, dict[str, float]] = {}
    for name, seconds in medians.items():
        variant, step = name.split(".")
        nested.setdefault(variant, {})[step] = 1e3 * seconds
    return nested


def parts(prefix: str, arch: str, dtype: hardware.Dtype, settings: BenchmarkSettings) -> Steps:
    """The parts of a step: embedding, all attention and all MLPs with their norms, head with loss, optimizer."""
    hardware.tune(settings.threads)
    torch.manual_seed(0)
    model = build(settings.config(arch))
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
        turn = optimized.rotation(0, settings.block_size, model.config.head_dim, CPU)
        forwards = {
            "embedding": lambda: embedding(ids),
            "attention": lambda: sum(layer.self_attn(layer.input_layernorm(x), turn, None) for layer in body.layers),
            "mlp": lambda: sum(layer.mlp(layer.post_attention_layernorm(x)) for layer in body.layers),
        }
    steps = {
        f"{prefix}{part}": _both_ways(forward, grad, dtype, [*model.parameters(), x])
        for part, forward in forwards.items()
    }
    steps[f"{prefix}head_loss"] = _both_ways(
        lambda: head_loss(model.lm_head, x, targets), None, dtype, [model.lm_head.weight, x]
    )
    return steps | {f"{prefix}optimizer": _optimizer(settings, arch)}


def products(name: str, dtype: hardware.Dtype, settings: BenchmarkSettings) -> Steps:
    """The head's three products alone, in the blocks of `head_loss` and into memory that is there already."""
    hardware.tune(settings.threads)
    kind, N, D = hardware.dtype(dtype, CPU), settings.tokens, settings.n_embd
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


def matrix(dtypes: dict[str, hardware.Dtype], settings: BenchmarkSettings, size: int) -> Steps:
    """A square product of `size` in each dtype, by name: the rate that utilisation is measured against."""
    hardware.tune(settings.threads)

    def product(dtype: torch.dtype) -> Callable[[], Tensor]:
        a, b = torch.randn(2, size, size).to(dtype)
        out = torch.empty(size, size, dtype=dtype)
        return lambda: torch.mm(a, b, out=out)

    return {name: product(hardware.dtype(dtype, CPU)) for name, dtype in dtypes.items()}


def layers(prefix: str, dtype: hardware.Dtype, settings: BenchmarkSettings) -> Steps:
    """What sets the architectures apart: one layer of each kind, forwards and backwards."""
    hardware.tune(settings.threads)
    torch.manual_seed(0)
    config, plain = settings.config("optimized"), settings.config("base")
    many = optimized.Attention(settings.with_heads(settings.n_head), 0)
    few, swiglu, gelu = optimized.Attention(config, 0), optimized.MLP(config), base.MLP(plain)
    x, grad = torch.randn(2, settings.batch_size, settings.block_size, settings.n_embd)
    x.requires_grad_()
    turn = optimized.rotation(0, settings.block_size, config.head_dim, CPU)
    heads = torch.randn(settings.batch_size, settings.n_head, settings.block_size, config.head_dim, requires_grad=True)
    keys = torch.randn(settings.batch_size, settings.n_kv_head, settings.block_size, config.head_dim)
    keys.requires_grad_()
    positions, table = torch.arange(settings.block_size), nn.Embedding(settings.block_size, settings.n_embd)
    modules = {
        "rmsnorm": nn.RMSNorm(settings.n_embd), "layernorm": nn.LayerNorm(settings.n_embd), "swiglu": swiglu,
        "gelu": gelu,
    }  # fmt: skip
    forwards = {name: lambda module=module: module(x) for name, module in modules.items()}
    forwards |= {"gqa": lambda: few(x, turn, None), "mha": lambda: many(x, turn, None)}
    forwards |= {
        "rope": lambda: optimized.rotate(heads, *turn).sum() + optimized.rotate(keys, *turn).sum(),
        "learned": lambda: x + table(positions),
    }
    leaves = [p for m in (*modules.values(), few, many, table) for p in m.parameters()] + [x, heads, keys]
    return {
        f"{prefix}{name}": _both_ways(forward, None if name == "rope" else grad, dtype, leaves)
        for name, forward in forwards.items()
    }


def _both_ways(
    forward: Callable[[], Tensor], grad: Tensor | None, dtype: hardware.Dtype, leaves: list[Tensor]
) -> Callable[[], None]:
    kind = hardware.dtype(dtype, CPU)

    def step() -> None:
        with hardware.autocast(CPU, kind):
            out = forward()
        out.backward(grad)
        for leaf in leaves:
            leaf.grad = None

    return step


def _optimizer(settings: BenchmarkSettings, arch: str) -> Callable[[], None]:
    """Clipping and AdamW on a whole model of its own."""
    model = build(settings.config(arch))
    optimizer = optim.adamw(model, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)

    def step() -> None:
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step
