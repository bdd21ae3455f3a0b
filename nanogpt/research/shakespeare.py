"""How long Shakespeare by characters takes to the losses of nanoGPT's documented runs, on a CPU and on a GPU."""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from nanogpt.checkpoint.settings import CheckpointSettings
from nanogpt.data.prepare.prepare import prepare_corpus
from nanogpt.data.sources.load import Data, load_corpus
from nanogpt.data.tokens.settings import TokenizerSettings
from nanogpt.evaluation.confidence import describe_mean
from nanogpt.model.config import ModelSettings
from nanogpt.runtime import params
from nanogpt.runtime.errors import UserError, shorten
from nanogpt.runtime.workdir import work_root
from nanogpt.training.pretrain import pretrain
from nanogpt.training.settings import TrainSettings

TARGET = 1.886  # nats a character: what nanoGPT's documented run on a CPU reaches, by its README 1.88
GPU_TARGET = 1.4697  # the lowest validation loss of its run on a GPU, by its README
STEPS = 2000
# The run for a CPU in the README of nanoGPT (https://github.com/karpathy/nanoGPT, commit 3adf61e), logging each step.
DOCUMENTED = {
    "device": "cpu", "compile": False, "eval_iters": 20, "log_interval": 1, "block_size": 64, "batch_size": 12,
    "n_layer": 4, "n_head": 4, "n_embd": 128, "max_iters": STEPS, "lr_decay_iters": STEPS, "dropout": 0.0,
}  # fmt: skip


def compare_times(peer: Path | str, seeds: Iterable[int]) -> dict[str, float]:
    """Time nanoGPT's documented run in a copy of the folder `peer`, and a run of params.yaml for each seed.

    nanoGPT's seconds are of its training loop, with its validations; ours are of all that `pretrain` does, also reading
    data and the final score. `time_to_1886_over_nanogpt` is their ratio, `val_nats` the loss of our runs on the whole
    validation split, both means with half of their 95% interval. Raises UserError where params.yaml is not of
    characters, nanoGPT's program is missing or fails, or a run of ours does not reach TARGET.
    """
    for name in ("train.py", "data/shakespeare_char/prepare.py"):
        if not Path(peer, name).is_file():
            raise UserError(f"{peer} has no {name}; name a clone of https://github.com/karpathy/nanoGPT")
    with tempfile.TemporaryDirectory(dir=work_root()) as scratch:
        folder = Path(scratch)
        ours, text = _train(folder, seeds)
        losses = [metrics["val"]["loss_nats"] for metrics in ours]
        if max(losses) > TARGET:
            raise UserError(f"validation loss {max(losses):.3f} is above {TARGET}; train for more steps")
        theirs, their_nats = _run_nanogpt(peer, folder / "peer", text)
    ratios = [metrics["wall_s"] / theirs for metrics in ours]
    figures = describe_mean("time_to_1886_over_nanogpt", ratios) | describe_mean("val_nats", losses)
    return figures | {"nanogpt_seconds": theirs, "nanogpt_val_nats": their_nats}


def train_best(seed: int) -> dict[str, float]:
    """Train params.yaml once; return `best_val_nats`, the loss of its weights on the whole validation split.

    If that is at most GPU_TARGET, `minutes_to_14697` are those of all that `pretrain` did. Raises UserError where
    params.yaml is not of characters.
    """
    with tempfile.TemporaryDirectory(dir=work_root()) as scratch:
        ((metrics,), _) = _train(Path(scratch), [seed])
    loss = metrics["val"]["loss_nats"]
    reached = {"minutes_to_14697": metrics["wall_s"] / 60} if loss <= GPU_TARGET else {}
    return reached | {"best_val_nats": loss}


def _train(folder: Path, seeds: Iterable[int]) -> tuple[list[dict], str]:
    """Train params.yaml with each seed, below `folder`; return the metrics of the runs, and the text."""
    given = params.load(
        data=Data, tokenizer=TokenizerSettings, model=ModelSettings, train=TrainSettings, checkpoint=CheckpointSettings
    )  # fmt: skip
    corpus = load_corpus(given.data.pretrain, given.data)
    if given.tokenizer.resolve_auto(corpus.tokenizer).kind != "char":
        raise UserError("params.yaml is not of characters; run `python -m stages.recipe shakespeare-quick` first")
    prepare_corpus(folder / "data", corpus, given.data.pretrain.val_fraction, given.tokenizer)
    outs = [(seed, folder / f"model-{seed}") for seed in seeds]
    runs = [pretrain(seed, given.model, given.train, given.checkpoint, folder / "data", out, out) for seed, out in outs]
    return runs, "".join(corpus.texts())


def _run_nanogpt(peer: Path | str, folder: Path, text: str) -> tuple[float, float]:
    """Return the seconds of all steps of nanoGPT's documented run, and its estimate of the final validation loss."""
    shutil.copytree(peer, folder, ignore=shutil.ignore_patterns(".git"))
    data = folder / "data" / "shakespeare_char"
    (data / "input.txt").write_text(text, "utf-8", newline="")
    flags = [f"--{name}={value}" for name, value in DOCUMENTED.items()]
    _run(data, "prepare.py")
    log = _run(folder, "train.py", "config/train_shakespeare_char.py", *flags)
    times = [float(ms) for ms in re.findall(r"^iter \d+: .* time ([\d.]+)ms", log, re.MULTILINE)]
    last = re.search(rf"^step {STEPS}: .* val loss ([\d.]+)", log, re.MULTILINE)
    if len(times) <= STEPS or not last:
        raise UserError(f"{peer}: its log has {len(times)} steps in place of {STEPS + 1}; is it nanoGPT?")
    return sum(times) / 1000, float(last[1])


def _run(folder: Path, *command: str) -> str:
    done = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"nanoGPT's {command[0]} failed: {shorten(done.stderr, 600)}")
    return done.stdout
