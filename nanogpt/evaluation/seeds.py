"""Compare base and optimized over several seeds: mean losses and 95% intervals, at equal steps and at equal time.

Every run is a process of `python -m stages.pretrain`, whose metrics are kept in `.work`, so that the same command
continues an interrupted series. Runs of a seed see the same batches in the same order, and are compared in pairs.
"""

import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, harmonic_mean

from nanogpt.data.tokens.bins import SPLITS, Bin
from nanogpt.data.tokens.tokenizer import load_tokenizer
from nanogpt.evaluation.confidence import describe_mean
from nanogpt.hardware.processor import describe_processor
from nanogpt.model.build import ARCHITECTURES
from nanogpt.model.config import ModelSettings
from nanogpt.runtime import params
from nanogpt.runtime.errors import UserError
from nanogpt.runtime.fingerprint import fingerprint_program
from nanogpt.runtime.process import launch_stage
from nanogpt.runtime.workdir import work_folder
from nanogpt.training.init_from import describe_origin
from nanogpt.training.settings import TrainSettings

BASE, OPTIMIZED = ARCHITECTURES
TITLES = {BASE: BASE, "equal_steps": f"{OPTIMIZED}, equal steps", "equal_time": f"{OPTIMIZED}, equal time"}
MEASURES = {"loss_nats": "loss, nats per token", "bpb": "bits per byte"}
CONTINUE = "finished runs are kept, and the same command continues from there"


@dataclass(frozen=True)
class Group:
    """Runs of one architecture and length: the contents of their pretrain.json, in the order of the seeds."""

    steps: int
    runs: list[dict]

    @property
    def tokens_per_s(self) -> float:
        """Mean speed: all tokens over all seconds."""
        return harmonic_mean([run["tokens_per_s"] for run in self.runs])


def compare_seeds(data: Path | str, seeds: Sequence[int], max_steps: int) -> tuple[str, dict]:
    """Train the runs that are not trained yet, which takes minutes to days; return a Markdown page and its figures.

    `data` is a folder of bins, `max_steps` the length of the runs at equal steps. Raises UserError where a run
    fails, and where settings, data or code change meanwhile; KeyboardInterrupt where a run is interrupted.
    """
    if max_steps < 2:
        raise UserError(f"--max-steps {max_steps}: speed is measured from the second step on; choose at least 2")
    fixed = describe_conditions(data)
    runs: dict[str, list[dict]] = {arch: [] for arch in ARCHITECTURES}
    for seed in seeds:
        for arch in ARCHITECTURES:  # in turns, so that a machine that slows down slows both
            runs[arch].append(_load_or_train(arch, seed, max_steps, data, fixed))
    base, optimized = (Group(max_steps, runs[arch]) for arch in (BASE, OPTIMIZED))
    steps = equal_time_steps(base, optimized)
    longer = Group(steps, [_load_or_train(OPTIMIZED, seed, steps, data, fixed) for seed in seeds])
    step_tokens = fixed["train"]["batch_size"] * fixed["train"]["grad_accum"] * fixed["model"]["block_size"]
    found = compute_figures({BASE: base, "equal_steps": optimized, "equal_time": longer}, seeds, step_tokens)
    return format_page(found, len(seeds), f"{data} ({fixed['source']})", fixed["machine"]), found


def describe_conditions(data: Path | str) -> dict:
    """Everything that a run's metrics depend on besides architecture, seed and steps, as JSON values."""
    given = params.load(model=ModelSettings, train=TrainSettings)
    tok = load_tokenizer(Path(data, "tokenizer"))
    bins = [Bin.open(data, split, tok) for split in SPLITS]
    program = fingerprint_program()
    # this package computes nothing in a run: an edit of it trains nothing again
    program["code"] = {k: v for k, v in program["code"].items() if not k.startswith("nanogpt.evaluation")}
    return {
        "model": {key: value for key, value in asdict(given.model).items() if key != "arch"},
        "train": {key: value for key, value in given.train.fingerprint_inputs().items() if key != "max_steps"},
        "start": describe_origin(given.train.init_from),
        "source": bins[0].source,
        "data": [tok.sha256, *(split.counts.sha256 for split in bins)],
        "machine": describe_processor(),
        "program": program,
    }


def equal_time_steps(base: Group, optimized: Group) -> int:
    """Steps of the optimized model in the time that base's runs took, by their mean speeds; at least 2."""
    return max(2, round(base.steps * optimized.tokens_per_s / base.tokens_per_s))


def _load_or_train(arch: str, seed: int, steps: int, data: Path | str, fixed: dict) -> dict:
    """Return the pretrain.json of one run; train it first if there is none."""
    try:
        folder = work_folder("seeds", f"{arch}-{seed}", fixed | {"arch": arch, "seed": seed, "steps": steps})
    except OSError as error:
        raise UserError(f"{error.filename} cannot be written: {error.strerror}; metrics are kept there") from None
    metrics, model = folder / "pretrain.json", folder / "model"
    if not metrics.exists():
        run, written = f"{arch}, seed {seed}, {steps:,} steps", model / "pretrain.json"
        if not written.exists():  # else this process was killed between training and the last line of this block
            flags = f"--arch={arch}", f"--seed={seed}", f"--max-steps={steps}", f"--data={data}", f"--out={model}"
            _train(run, flags)
        now = describe_conditions(data)
        changed = " and ".join(key for key in fixed if now[key] != fixed[key])
        if not changed and json.loads(written.read_text("utf-8"))["tokens_per_s"]:
            os.replace(written, metrics)  # from now on the run counts
    shutil.rmtree(model, ignore_errors=True)
    if metrics.exists():
        return json.loads(metrics.read_text("utf-8"))
    if changed:
        reason = f"{changed} changed while it was trained (params.yaml, {data} or the code), so that it does not count"
        raise UserError(f"{run}: {reason}; undo that to continue the series, or run this again for a new one")
    raise UserError(f"{run}: it has no speed, because it was interrupted after each of its steps; run it again")


def _train(run: str, flags: Sequence[str]) -> None:
    print(run, file=sys.stderr, flush=True)
    try:
        status = launch_stage([sys.executable, "-m", "stages.pretrain", *flags, "--overwrite"])
    except KeyboardInterrupt:
        raise KeyboardInterrupt(CONTINUE) from None
    if status:
        advice = "; perhaps memory is short: choose a smaller train.batch_size" if status < 0 else ""
        raise UserError(f"{run}: training ended with status {status}{advice}; {CONTINUE}")


def compute_figures(groups: dict[str, Group], seeds: Sequence[int], step_tokens: int) -> dict:
    """Compute the figures of each group (see TITLES), and how those besides base differ from it in pairs of a seed.

    `…_ci95` is half of the 95% confidence interval; `seconds` are those of all steps of `step_tokens` tokens at the
    measured speed. `change_percent` (of base's mean) is the same for both measures, as bytes per token are equal.
    """
    base, found = groups[BASE], {}
    for name, group in groups.items():
        row = {"steps": group.steps, "tokens_per_s": group.tokens_per_s}
        series = {"seconds": [group.steps * step_tokens / run["tokens_per_s"] for run in group.runs]}
        for measure in MEASURES:
            series[measure], before = ([run["val"][measure] for run in each.runs] for each in (group, base))
            if group is not base:
                changes = [after - first for after, first in zip(series[measure], before, strict=True)]
                series[f"{measure}_change"] = changes
                series["change_percent"] = [100 * change / fmean(before) for change in changes]
        for key, values in series.items():
            row |= describe_mean(key, values)
        row["by_seed"] = {str(seed): run["val"] for seed, run in zip(seeds, group.runs, strict=True)}
        found[name] = row
    return found


def format_page(found: dict, n: int, data: str, machine: str) -> str:
    """Format the figures of `n` seeds as Markdown."""

    def format_estimates(row: dict, formats: dict[str, str]) -> str:
        cells = [f"{row[key]:{form}} ± {row[f'{key}_ci95']:{form.lstrip('+')}}" for key, form in formats.items()]
        return " | ".join(cells)

    values = {"seconds": ",.1f", "loss_nats": ".4f", "bpb": ".4f"}
    changes = {"loss_nats_change": "+.4f", "bpb_change": "+.4f", "change_percent": "+.2f"}
    titles = " | ".join(MEASURES.values())
    rows = [f"| {TITLES[key]} | {row['steps']:,} | {format_estimates(row, values)} |" for key, row in found.items()]
    changed = [f"| {TITLES[key]} | {format_estimates(found[key], changes)} |" for key in list(found)[1:]]
    table, change_table = "\n".join(rows), "\n".join(changed)
    return f"""# {BASE} against {OPTIMIZED}, {n} seeds

On the validation documents of {data}; lower is better.
After ± is half of the 95% confidence interval over seeds (Student's t).
Seconds are those of all steps, without compiling, validation and saving.
At equal time {OPTIMIZED} takes as many steps as {BASE}'s seconds allow, on a schedule of that length.

Machine: {machine}.

| | steps | seconds | {titles} |
|---|---|---|---|---|
{table}

Change against {BASE}, in pairs of the same seed (the same batches in the same order); below 0 is better:

| | {titles} | % of {BASE}'s mean, both |
|---|---|---|---|
{change_table}
"""
