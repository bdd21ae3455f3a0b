"""A minimal training loop in fp32, to compare the loop of this project with.

    PYTHONPATH=. python tests/support/reference_loop.py data/pretrain --arch optimized --steps 500

trains the benchmark's shape twice on the same batches, with this loop and with the project's, and prints both curves.
"""

import torch
import torch.nn.functional as F
from torch import nn

from nanogpt.data.tokens.batches import Windows
from nanogpt.training.schedule import learning_rate
from nanogpt.training.settings import TrainSettings


def reference_losses(model: nn.Module, windows: Windows, settings: TrainSettings) -> list[float]:
    """Train without any optimization of speed; return the loss of every step in nats per token."""
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": settings.weight_decay},
            {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
        ],
        betas=(settings.beta1, settings.beta2),
    )
    losses = []
    for step in range(settings.max_steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, settings)
        ids, targets = windows.batch(step, settings.batch_size)
        loss = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.grad_clip)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def main() -> None:
    import argparse
    import copy
    from dataclasses import replace

    import pandas as pd

    from nanogpt.benchmark.settings import BenchmarkSettings
    from nanogpt.data.tokens.bins import Bin
    from nanogpt.data.tokens.tokenizer import load_tokenizer
    from nanogpt.hardware.processor import describe_processor
    from nanogpt.model.build import build_model
    from nanogpt.runtime import params
    from nanogpt.training.loop import train

    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("bins")
    flags.add_argument("--arch", choices=["base", "optimized"], default="optimized")
    flags.add_argument("--steps", type=int, default=500)
    args = flags.parse_args()
    given = params.load(benchmark=BenchmarkSettings, train=TrainSettings)
    tok = load_tokenizer(f"{args.bins}/tokenizer")
    settings = replace(
        given.train, max_steps=args.steps, max_minutes=None, keep="last", patience=None, lr=1.5e-3, min_lr=1.5e-4,
        warmup_steps=args.steps // 20, batch_size=given.benchmark.batch_size, grad_accum=1, log_every=1,
        eval_every=args.steps,
    )  # fmt: skip
    windows = [Windows(Bin.open(args.bins, split, tok), given.benchmark.block_size, 1) for split in ("train", "val")]
    torch.manual_seed(1)
    plain = build_model(given.benchmark.config(args.arch))
    fast = copy.deepcopy(plain)
    ours = train(fast, *windows, settings, 1).train_losses
    torch.backends.mkldnn.matmul.fp32_precision = "ieee"  # the reference has torch's own products
    curves = pd.DataFrame({"ours": ours, "plain": reference_losses(plain, windows[0], settings)})
    means = curves.groupby(10 + curves.index // 10 * 10).mean()  # of ten steps
    means["difference %"] = 100 * (means.ours / means.plain - 1)
    print(describe_processor(), args.arch, sep="\n")
    print(means[means.index % (args.steps // 10) == 0].round(4).to_string())
    print(f"greatest difference of a mean of ten steps: {means['difference %'].abs().max():.3f}%")


if __name__ == "__main__":
    main()
