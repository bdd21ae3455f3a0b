"""The time of each layer of the optimized model beside the layer of the base model that it replaces."""

from dataclasses import replace
from functools import partial

import torch
from torch import nn

from nanogpt.benchmark.settings import BenchmarkSettings
from nanogpt.benchmark.step_parts import build_parts, forward_and_backward
from nanogpt.benchmark.timing import Steps, time_in_turns
from nanogpt.benchmark.variants import CPU, DTYPES
from nanogpt.hardware.device import Dtype, configure_torch
from nanogpt.model import gpt2, llama
from nanogpt.model.build import ARCHITECTURES

REPLACED = {"rmsnorm": "layernorm", "gqa": "mha", "swiglu": "gelu", "rope": "learned"}


def measure_parts(settings: BenchmarkSettings) -> dict[str, dict[str, dict[str, float]]]:
    """Milliseconds of each part of an uncompiled step, for both architectures in both dtypes."""
    entries = {
        f"{arch}_{short}": partial(build_parts, f"{arch}_{short}.", arch, dtype, settings)
        for arch in ARCHITECTURES
        for short, dtype in DTYPES.items()
    }
    return {"parts_ms": group_by_prefix(time_in_turns(entries, settings.num_iters).medians)}


def measure_layers(settings: BenchmarkSettings) -> dict[str, dict[str, dict[str, float]]]:
    """Milliseconds of a layer of each kind, forward and backward (`layers_ms`); old over new (`layer_speedup`)."""
    entries = {short: partial(build_layers, f"{short}.", dtype, settings) for short, dtype in DTYPES.items()}
    layers_ms = group_by_prefix(time_in_turns(entries, settings.num_iters).medians)
    speedup = {
        short: {f"{new}_over_{old}": ms[old] / ms[new] for new, old in REPLACED.items()}
        for short, ms in layers_ms.items()
    }
    return {"layers_ms": layers_ms, "layer_speedup": speedup}


def group_by_prefix(medians: dict[str, float]) -> dict[str, dict[str, float]]:
    """Turn seconds by "prefix.step" into milliseconds by prefix and step."""
    ms: dict[str, dict[str, float]] = {}
    for name, seconds in medians.items():
        prefix, step = name.split(".")
        ms.setdefault(prefix, {})[step] = 1e3 * seconds
    return ms


def build_layers(prefix: str, dtype: Dtype, settings: BenchmarkSettings) -> Steps:
    """Build a forward and backward pass through one layer of each kind."""
    configure_torch(settings.threads)
    torch.manual_seed(0)
    config = settings.config("optimized")
    B, T, C, heads = settings.batch_size, settings.block_size, settings.n_embd, settings.n_head
    gqa, mha = llama.Attention(config), llama.Attention(replace(config, n_kv_head=heads))
    x, grad = torch.randn(2, B, T, C)
    q, k = torch.randn(B, heads, T, config.head_dim), torch.randn(B, settings.n_kv_head, T, config.head_dim)
    cos_sin = llama.rope_cos_sin(T, config.head_dim, CPU)
    positions, table = torch.arange(T), nn.Embedding(T, C)
    modules = {
        "rmsnorm": nn.RMSNorm(C), "layernorm": nn.LayerNorm(C),
        "swiglu": llama.MLP(config), "gelu": gpt2.MLP(settings.config("base")),
    }  # fmt: skip
    forwards = {name: partial(module, x) for name, module in modules.items()} | {
        "gqa": lambda: gqa(x, cos_sin),
        "mha": lambda: mha(x, cos_sin),
        "rope": lambda: llama.apply_rope(q, *cos_sin).sum() + llama.apply_rope(k, *cos_sin).sum(),
        "learned": lambda: x + table(positions),
    }
    inputs = [tensor.requires_grad_() for tensor in (x, q, k)]
    leaves = [p for module in (*modules.values(), gqa, mha, table) for p in module.parameters()] + inputs
    return {
        f"{prefix}{name}": forward_and_backward(forward, None if name == "rope" else grad, dtype, leaves)
        for name, forward in forwards.items()
    }
