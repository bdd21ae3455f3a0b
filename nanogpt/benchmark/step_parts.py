"""The parts of a training step, each to be timed alone."""

import torch
from torch import Tensor, nn

from nanogpt.benchmark.settings import BenchmarkSettings
from nanogpt.benchmark.timing import Step, Steps
from nanogpt.benchmark.variants import CPU
from nanogpt.hardware.device import Dtype, autocast, choose_dtype, configure_torch
from nanogpt.model import llama
from nanogpt.model.build import build_model
from nanogpt.model.loss import IDS_AT_ONCE, head_loss
from nanogpt.training.optimizer import build_adamw


def build_parts(prefix: str, arch: str, dtype: Dtype, settings: BenchmarkSettings) -> Steps:
    """Build the parts of a step: embedding, all attention and all MLPs with their norms, head with loss, optimizer."""
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
            "attention": lambda: sum(block.attn(block.ln_1(x)) for block in body.h),
            "mlp": lambda: sum(block.mlp(block.ln_2(x)) for block in body.h),
        }
    else:
        body, embedding = model.model, model.model.embed_tokens
        cos_sin = llama.rope_cos_sin(settings.block_size, model.config.head_dim, CPU)
        forwards = {
            "embedding": lambda: embedding(ids),
            "attention": lambda: sum(layer.self_attn(layer.input_layernorm(x), cos_sin) for layer in body.layers),
            "mlp": lambda: sum(layer.mlp(layer.post_attention_layernorm(x)) for layer in body.layers),
        }
    steps = {
        f"{prefix}{part}": forward_and_backward(forward, grad, dtype, [*model.parameters(), x])
        for part, forward in forwards.items()
    }
    steps[f"{prefix}head_loss"] = forward_and_backward(
        lambda: head_loss(model.lm_head, x, targets), None, dtype, [model.lm_head.weight, x]
    )
    return steps | {f"{prefix}optimizer": _build_optimizer_step(settings, arch)}


def build_head_products(name: str, dtype: Dtype, settings: BenchmarkSettings) -> Steps:
    """Build the three matrix products of the head, in the blocks of `head_loss` and into memory allocated before."""
    configure_torch(settings.threads)
    torch_dtype, N, D = choose_dtype(dtype, CPU), settings.tokens, settings.n_embd
    h, w = torch.randn(N, D).to(torch_dtype), torch.randn(settings.vocab_size, D).to(torch_dtype)
    blocks = [
        (rows, torch.empty(N, len(rows), dtype=torch_dtype), torch.empty_like(rows)) for rows in w.split(IDS_AT_ONCE)
    ]
    grad = torch.empty_like(h)

    def step() -> None:
        for rows, logits, _ in blocks:
            torch.mm(h, rows.T, out=logits)
        for rows, logits, grad_rows in blocks:
            torch.mm(logits, rows, out=grad)
            torch.mm(logits.T, h, out=grad_rows)

    return {name: step}


def build_square_products(dtypes: dict[str, Dtype], settings: BenchmarkSettings, size: int) -> Steps:
    """Build a product of two `size` x `size` matrices in each dtype; utilisation is measured against its rate."""
    configure_torch(settings.threads)

    def product(dtype: torch.dtype) -> Step:
        a, b = torch.randn(2, size, size).to(dtype)
        out = torch.empty(size, size, dtype=dtype)
        return lambda: torch.mm(a, b, out=out)

    return {name: product(choose_dtype(dtype, CPU)) for name, dtype in dtypes.items()}


def forward_and_backward(forward: Step, grad: Tensor | None, dtype: Dtype, leaves: list[Tensor]) -> Step:
    """Build a step that calls `forward`, goes backward from `grad` (None: from a scalar) and drops all gradients."""
    torch_dtype = choose_dtype(dtype, CPU)

    def step() -> None:
        with autocast(CPU, torch_dtype):
            out = forward()
        out.backward(grad)
        for leaf in leaves:
            leaf.grad = None

    return step


def _build_optimizer_step(settings: BenchmarkSettings, arch: str) -> Step:
    """Build clipping and AdamW on a whole model."""
    model = build_model(settings.config(arch))
    optimizer = build_adamw(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)

    def step() -> None:
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step
