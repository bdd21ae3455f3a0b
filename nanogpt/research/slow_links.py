"""Training on two hosts with a slow link between them: loss, bytes and time by what is exchanged, and how often."""

import tempfile
from pathlib import Path

from nanogpt.research.hosts import two_hosts
from nanogpt.research.process_runs import ProcessRuns
from nanogpt.runtime import params
from nanogpt.runtime.errors import UserError
from nanogpt.runtime.metrics_file import read_metrics
from nanogpt.runtime.yaml_file import find_value, read_yaml

LINKS = 1000, 100  # Mbit/s
LOCAL_STEPS = 16
WAYS = {
    "ddp": {},
    "ddp_bf16": {"exchange_dtype": "bfloat16"},
    "local_steps": {"local_steps": LOCAL_STEPS, "exchange_dtype": "bfloat16"},
}
TIMED_STEPS = 48


def measure_links(steps: int) -> dict[str, float]:
    """Train params.yaml on the built-in stories for `steps` steps in each of WAYS, and TIMED_STEPS over each of LINKS.

    `loss_over_ddp` and `bytes_over_ddp` are of local steps, at as many tokens, `bf16_…` of gradients in bf16; bytes are
    those that a host sends.
    Raises UserError where two hosts cannot be made.
    """
    figures: dict[str, float] = {}
    for name, changed in WAYS.items():
        loss, sent, _ = _train(steps, changed, None)
        figures |= {f"{name}_val_nats": loss, f"{name}_bytes_a_step": sent / steps}
        for link in LINKS:
            figures[f"{name}_s_a_step_{link}_mbit"] = _train(TIMED_STEPS, changed, link)[2]
    for figure, name in (("loss_over_ddp", "val_nats"), ("bytes_over_ddp", "bytes_a_step")):
        figures[figure] = figures[f"local_steps_{name}"] / figures[f"ddp_{name}"]
        figures[f"bf16_{figure}"] = figures[f"ddp_bf16_{name}"] / figures[f"ddp_{name}"]
    return figures


def _train(steps: int, changed: dict, mbit_per_s: int | None) -> tuple[float, int, float]:
    """Train on two hosts; return the loss on the validation split, bytes that the first sent, and seconds a step."""
    settings = {"max_steps": steps, "max_minutes": None, "eval_every": LOCAL_STEPS * 3, "log_every": LOCAL_STEPS}
    with tempfile.TemporaryDirectory() as scratch, two_hosts(mbit_per_s) as hosts:
        runs = ProcessRuns.make(Path(scratch), documents=20000, vocab_size=2048, train=settings | changed)
        _, *command = runs.command("out")
        with (
            runs.start(hosts[1].torchrun("--nnodes", "2", *command)) as second,
            runs.start(hosts[0].torchrun("--nnodes", "2", *command)) as first,
        ):
            if first.wait(60 + 20 * steps):
                raise UserError(f"a run on two hosts failed:\n{(runs.folder / 'log').read_text('utf-8')[-3000:]}")
            second.wait(60)
            sent = hosts[0].sent_bytes()
        metrics = read_metrics(runs.folder / "out" / "pretrain.json")
        document = read_yaml(runs.folder / params.PATH)
        tokens = find_value(document, "train.batch_size") * find_value(document, "model.block_size")
        return metrics["val"]["loss_nats"], sent, tokens / metrics["tokens_per_s"]
