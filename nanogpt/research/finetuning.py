"""What the settings of fine-tuning are worth: kinds of adapters, shares of replay, PEFT's merge, memory.

All runs start from the pipeline's model in models/pretrain and read its data/.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from nanogpt.benchmark.settings import BenchmarkSettings
from nanogpt.benchmark.training_speed import time_variants
from nanogpt.benchmark.variants import Variant
from nanogpt.data.tokens.batches import Windows
from nanogpt.data.tokens.bins import Bin
from nanogpt.evaluation.confidence import describe_mean
from nanogpt.lora.adapter import open_adapted
from nanogpt.lora.finetune import finetune
from nanogpt.lora.settings import LoraSettings
from nanogpt.runtime import atomic
from nanogpt.runtime.errors import UserError
from nanogpt.runtime.workdir import work_root
from nanogpt.training.settings import TrainSettings

FULL_LR = 0.006  # of Muon on all weights, found among 0.003, 0.004, 0.006 and 0.012
KINDS = {
    "full": {"kind": "full", "lr": FULL_LR},
    "lora": {"kind": "lora"},
    "rslora": {"kind": "rslora", "alpha": 16.0, "lr": 0.007},  # counts twice as much as LoRA at rank 64
    "dora": {"kind": "dora"},
}
SHARES = (0.0, 0.05, 0.125, 0.25)
TOKENS = 18_919  # of GPT-2's 50,257 are in 2,991 abstracts of arXiv, the end token among them
CURVE = Path("metrics/replay.csv")


def compare_kinds(
    lora: LoraSettings, train: TrainSettings, seeds: Sequence[int], minutes: float | None
) -> dict[str, dict[str, float]]:
    """Fine-tune each of KINDS, without replay; return rows with means over the seeds and half 95% intervals.

    Runs have the steps of `lora`, or with `minutes` as many as fit into that time, at the start of each of them.
    """
    rows: dict[str, list[dict]] = {name: [] for name in KINDS}
    for seed in seeds:
        for name, changed in KINDS.items():  # in turns, so that a machine that slows down slows all
            settings = replace(lora, replay=0.0, max_minutes=minutes, **changed)
            rows[name].append(_finetune(settings, train, seed))
    return {name: _describe(found) for name, found in rows.items()}


def measure_replay(lora: LoraSettings, train: TrainSettings, seeds: Sequence[int]) -> dict:
    """Fine-tune with each of SHARES at equal steps, and write the curve to CURVE for its DVC plot.

    Returns its rows, and `adapting_over_without`: bits per byte of the new text with the share of `lora` over those
    without replay.
    """
    shares, lora = sorted({*SHARES, lora.replay}), replace(lora, max_minutes=None)
    rows = {share: [_finetune(replace(lora, replay=share), train, seed) for seed in seeds] for share in shares}
    curve = {str(share): _describe(found) for share, found in rows.items()}
    lines = [f"{share},{row['finetune_bpb']:.6g},{row['pretrain_change']:.6g}" for share, row in curve.items()]
    CURVE.parent.mkdir(exist_ok=True)
    atomic.write_text(CURVE, "\n".join(["replay,finetune_bpb,pretrain_change", *lines]) + "\n")
    pairs = zip(rows[lora.replay], rows[0.0], strict=True)
    ratios = [ours["finetune_bpb"] / without["finetune_bpb"] for ours, without in pairs]
    return describe_mean("adapting_over_without", ratios) | {"curve": curve}


@torch.no_grad()
def compare_merges() -> dict[str, float]:
    """Largest difference of the pipeline's adapted model's logits, after PEFT's own merge and as we compute them.

    All are of one batch of validation windows and compared with those of PEFT's adapted model.
    """
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    ours, tok = open_adapted("models/lora")
    config = ours.get_base_model().config
    ids, _ = Windows(Bin.open("data/finetune", "val", tok), config.block_size, seed=0).batch(0, 8)
    base = AutoModelForCausalLM.from_pretrained("models/pretrain")
    theirs = PeftModel.from_pretrained(base, "models/lora").eval()
    adapted = theirs(ids).logits
    found = {"ours_max_abs_logit_difference": (ours(ids) - adapted).abs().max().item()}
    merged = theirs.merge_and_unload()(ids).logits
    return {"max_abs_logit_difference": (merged - adapted).abs().max().item()} | found


def measure_memory(lora: LoraSettings, settings: BenchmarkSettings) -> dict[str, float]:
    """MiB at the peak and milliseconds of a step with the adapter of `lora`, and with all weights, at that shape.

    A text uses TOKENS of the vocabulary, or all if it is smaller.
    """
    tokens = min(TOKENS, settings.vocab_size)
    variants = {
        "default_targets": Variant("base", "auto", adapter=lora, tokens=tokens),
        "full": Variant("base", "auto"),
    }
    times = time_variants(variants, settings)
    found = {f"{name}_mib": mib for name, mib in times.peak_mib.items()}
    return found | {f"{name}_ms": 1e3 * seconds for name, seconds in times.medians.items()}


def run_recipe(name: str) -> dict[str, float]:
    """Run a recipe to its texts in a clone of this repository's last commit; return what it learned and forgot.

    Prints what the models write. The recipe's texts are in `../shared`, beside the repository. Raises UserError where
    a command fails.
    """
    work_root().mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work_root().resolve()) as scratch:
        clone = Path(scratch, "clone")
        Path(scratch, "shared").symlink_to(Path("../shared").resolve())
        python = sys.executable
        _run(Path.cwd(), "git", "clone", "--quiet", ".", str(clone))
        _run(clone, python, "-m", "stages.recipe", name)
        _run(clone, python, "-m", "dvc", "repro", "sample")
        metrics = {stage: json.loads((clone / f"metrics/{stage}.json").read_text("utf-8")) for stage in STAGES}
        print((clone / "metrics/samples.md").read_text("utf-8"))
    pretrained, adapted = (metrics[stage] for stage in STAGES)
    return {
        "abstracts_bpb": adapted["after"]["finetune"]["bpb"],
        "stories_bpb": adapted["after"]["pretrain"]["bpb"],
        "stories_change_bpb": adapted["after"]["pretrain"]["bpb_change"],
        "pretrain_s": pretrained["wall_s"],
        "pretrain_steps": pretrained["steps"],
        "finetune_s": adapted["wall_s"],
        "finetune_steps": adapted["steps"],
    }


STAGES = "pretrain", "lora-finetune"


def _run(folder: Path, *command: str) -> None:
    if subprocess.run(command, cwd=folder).returncode:
        raise UserError(f"`{' '.join(command)}` failed in a clone of this repository")


def _finetune(lora: LoraSettings, train: TrainSettings, seed: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as scratch:
        found = finetune(seed, lora, lora.training(train), out=f"{scratch}/out", metrics_folder=f"{scratch}/metrics")
    after = found["after"]
    return {
        "finetune_bpb": after["finetune"]["bpb"], "pretrain_change": after["pretrain"]["bpb_change"],
        "steps": float(found["steps"]), "seconds": found["wall_s"],
    }  # fmt: skip


def _describe(rows: Iterable[dict[str, float]]) -> dict[str, float]:
    rows, found = list(rows), {}
    for key in rows[0]:
        found |= describe_mean(key, [row[key] for row in rows])
    return found
