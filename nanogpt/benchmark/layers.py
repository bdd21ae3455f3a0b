"""Each improvement alone: a layer of the optimized architecture against what it stands for in base's place."""

from dataclasses import replace
from functools import partial

import torch
from torch import nn

from nanogpt.benchmark.settings import BenchmarkSettings
from nanogpt.benchmark.step_parts import both_ways, nested
from nanogpt.benchmark.timing import Steps, time_in_turns
from nanogpt.benchmark.variants import CPU, DTYPES
from nanogpt.hardware.device import Dtype, configure_torch
from nanogpt.model import gpt2, llama

PAIRS = {"rmsnorm": "layernorm", "gqa": "mha", "swiglu": "gelu", "rope": "learned"}


def benchmark(settings: BenchmarkSettings) -> dict[str, dict[str, dict[str, float]]]:
    """`layers_ms`: what is new in the optimized architecture and what it stands for in base's place.

    `layer_speedup`: how many times faster the new is, forwards and backwards.
    """
    entries = {short: partial(layers, f"{short}.", dtype, settings) for short, dtype in DTYPES.items()}
    layers_ms = nested(time_in_turns(entries, settings.num_iters).medians)
    speedup = {
        short: {f"{new}_over_{old}": ms[old] / ms[new] for new, old in PAIRS.items()} for short, ms in layers_ms.items()
    }
    return {"layers_ms": layers_ms, "layer_speedup": speedup}


def layers(prefix: str, dtype: Dtype, settings: BenchmarkSettings) -> Steps:
    """What sets the architectures apart: one layer of each kind, forwards and backwards."""
    configure_torch(settings.threads)
    torch.manual_seed(0)
    config, plain = settings.config("optimized"), settings.config("base")
    many = llama.Attention(replace(config, n_kv_head=settings.n_head), 0)
    few, swiglu, gelu = llama.Attention(config, 0), llama.MLP(config), gpt2.MLP(plain)
    x, grad = torch.randn(2, settings.batch_size, settings.block_size, settings.n_embd)
    x.requires_grad_()
    cos_sin = llama.rope_cos_sin(0, settings.block_size, config.head_dim, CPU)
    heads = torch.randn(settings.batch_size, settings.n_head, settings.block_size, config.head_dim, requires_grad=True)
    keys = torch.randn(settings.batch_size, settings.n_kv_head, settings.block_size, config.head_dim)
    keys.requires_grad_()
    positions, table = torch.arange(settings.block_size), nn.Embedding(settings.block_size, settings.n_embd)
    modules = {
        "rmsnorm": nn.RMSNorm(settings.n_embd), "layernorm": nn.LayerNorm(settings.n_embd), "swiglu": swiglu,
        "gelu": gelu,
    }  # fmt: skip
    forwards = {name: lambda module=module: module(x) for name, module in modules.items()}
    forwards |= {"gqa": lambda: few(x, cos_sin, None), "mha": lambda: many(x, cos_sin, None)}
    forwards |= {
        "rope": lambda: llama.apply_rope(heads, *cos_sin).sum() + llama.apply_rope(keys, *cos_sin).sum(),
        "learned": lambda: x + table(positions),
    }
    leaves = [p for m in (*modules.values(), few, many, table) for p in m.parameters()] + [x, heads, keys]
    return {
        f"{prefix}{name}": both_ways(forward, None if name == "rope" else grad, dtype, leaves)
        for name, forward in forwards.items()
    }
