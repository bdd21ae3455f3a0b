"""Base against optimized over several seeds: means and their 95% intervals, at equal steps and at equal time.

Every run is a process of its own, `python -m stages.pretrain`, whose figures stay in `.work`: an interrupted series
goes on where it was. Both architectures get the same seeds, and so read the same batches in the same order: they are
compared in pairs.
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
from nanogpt.evaluation.confidence import mean_interval
from nanogpt.hardware.cores import describe_processor
from nanogpt.model.build import ARCHITECTURES
from nanogpt.model.config import ModelSettings
from nanogpt.runtime import params
from nanogpt.runtime.errors import UserError
from nanogpt.runtime.process import launch_stage
from nanogpt.runtime.workdir import work_folder
from nanogpt.training.fingerprint import fingerprint_program
from nanogpt.training.init_from import describe_origin
from nanogpt.training.settings import TrainSettings

BASE, OPTIMIZED = ARCHITECTURES
TITLES = {BASE: BASE, "equal_steps": f"{OPTIMIZED}, equal steps", "equal_time": f"{OPTIMIZED}, equal time"}
MEASURES = {"loss_nats": "loss, nats per token", "bpb": "bits per byte"}
STAGE = "stages.pretrain"
KEPT = "the runs that are done are kept, and the same command goes on from there"


@dataclass(frozen=True)
class Group:
    """Runs of equal length of one architecture, and what pretrain.json says of each, in the order of the seeds."""

    steps: int
    runs: list[dict]

    def values(self, measure: str) -> list[float]:
        """One of MEASURES on the validation documents, a value for each seed."""
        return [run["val"][measure] for run in self.runs]

    @property
    def tokens_per_s(self) -> float:
        """Mean speed: all tokens over all seconds."""
        return harmonic_mean([run["tokens_per_s"] for run in self.runs])


def compare_seeds(data: Path | str, seeds: Sequence[int], max_steps: int) -> tuple[str, dict]:
    """Train what is not trained yet, for minutes to days: a page of Markdown and its figures.

    `data` is a folder of bins, `max_steps` the length of the runs at equal steps. Raises UserError where a run
    fails, and where settings, data or code change on the way; KeyboardInterrupt where a run was interrupted.
    """
    if max_steps < 2:
        raise UserError(f"--max-steps {max_steps}: speed is measured from the second step on; choose at least 2")
    fixed = run_conditions(data)
    runs: dict[str, list[dict]] = {arch: [] for arch in ARCHITECTURES}
    for seed in seeds:
        for arch in ARCHITECTURES:  # in turns, so that a machine that slows down slows both
            runs[arch].append(_train_unless_done(arch, seed, max_steps, data, fixed))
    base, optimized = (Group(max_steps, runs[arch]) for arch in (BASE, OPTIMIZED))
    steps = equal_time_steps(base, optimized)
    longer = Group(steps, [_train_unless_done(OPTIMIZED, seed, steps, data, fixed) for seed in seeds])
    step_tokens = fixed["train"]["batch_size"] * fixed["train"]["grad_accum"] * fixed["model"]["block_size"]
    found = figures({BASE: base, "equal_steps": optimized, "equal_time": longer}, seeds, step_tokens)
    return markdown_page(found, len(seeds), f"{data} ({fixed['source']})", fixed["machine"]), found


def run_conditions(data: Path | str) -> dict:
    """What a run's figures depend on besides architecture, seed and steps, as JSON values."""
    given = params.load(model=ModelSettings, train=TrainSettings)
    tok = load_tokenizer(Path(data, "tokenizer"))
    bins = [Bin.open(data, split, tok) for split in SPLITS]
    return {
        "model": {key: value for key, value in asdict(given.model).items() if key != "arch"},
        "train": {key: value for key, value in given.train.fingerprint_inputs().items() if key != "max_steps"},
        "start": describe_origin(given.train.init_from),
        "source": bins[0].source,
        "data": [tok.sha256, *(one.counts.sha256 for one in bins)],
        "machine": describe_processor(),
        "program": _program(),
    }


def _program() -> dict[str, dict[str, str]]:
    """The program of a run. This package is left out: it only compares, and an edit of it trains nothing again."""
    found = fingerprint_program()
    return found | {"code": {k: v for k, v in found["code"].items() if not k.startswith("nanogpt.evaluation")}}


def equal_time_steps(base: Group, optimized: Group) -> int:
    """Steps that the optimized model takes while base takes its own, by their mean speeds; at least 2."""
    return max(2, round(base.steps * optimized.tokens_per_s / base.tokens_per_s))


def _train_unless_done(arch: str, seed: int, steps: int, data: Path | str, fixed: dict) -> dict:
    """What pretrain.json says of one run, which is trained unless it was before."""
    try:
        folder = work_folder("seeds", f"{arch}-{seed}", fixed | {"arch": arch, "seed": seed, "steps": steps})
    except OSError as error:
        raise UserError(f"{error.filename} cannot be written: {error.strerror}; figures are kept there") from None
    kept, model = folder / "pretrain.json", folder / "model"
    if not kept.exists():
        run, made = f"{arch}, seed {seed}, {steps:,} steps", model / "pretrain.json"
        if not made.exists():  # else this process was killed just before the run counted
            _train_run(run, {"arch": arch, "seed": seed, "max-steps": steps, "data": data, "out": model})
        if why_not := _why_invalid(made, data, fixed):
            shutil.rmtree(model)
            raise UserError(f"{run}: {why_not}")
        os.replace(made, kept)  # from now on the run counts
    shutil.rmtree(model, ignore_errors=True)
    return json.loads(kept.read_text("utf-8"))


def _train_run(run: str, flags: dict[str, object]) -> None:
    print(run, file=sys.stderr, flush=True)
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    try:
        status = launch_stage([sys.executable, "-m", STAGE, *words, "--overwrite"])
    except KeyboardInterrupt:
        raise KeyboardInterrupt(KEPT) from None
    if status:
        advice = "; perhaps for want of memory: choose a smaller train.batch_size" if status < 0 else ""
        raise UserError(f"{run}: training ended with status {status}{advice}; {KEPT}")


def _why_invalid(made: Path, data: Path | str, fixed: dict) -> str | None:
    """Why a run that is done does not count; None where it does."""
    now = run_conditions(data)
    if changed := " and ".join(key for key in fixed if now[key] != fixed[key]):
        return (
            f"{changed} changed while it was trained (params.yaml, {data} or the code): it does not count; "
            "take that back to go on where the series was, or run the same command again for a new one"
        )
    if not json.loads(made.read_text("utf-8"))["tokens_per_s"]:
        return "it has no speed, as it was interrupted after each of its steps; run it again"
    return None


def figures(groups: dict[str, Group], seeds: Sequence[int], step_tokens: int) -> dict:
    """The figures of each group (see TITLES), and how those besides base differ from it in pairs of the same seed.

    `…_ci95` is half of the 95% confidence interval, `seconds` of steps of `step_tokens` tokens at the measured speed.
    `change_percent` of base's mean is that of both measures: the same tokens spell the same bytes.
    """
    base, found = groups[BASE], {}
    for name, group in groups.items():
        row = {"steps": group.steps, "tokens_per_s": group.tokens_per_s}
        row |= _estimate("seconds", [group.steps * step_tokens / run["tokens_per_s"] for run in group.runs])
        for measure in MEASURES:
            values, before = group.values(measure), base.values(measure)
            changes = [after - before for after, before in zip(values, before, strict=True)]
            row |= _estimate(measure, values)
            if group is not base:
                row |= _estimate(f"{measure}_change", changes)
                row |= _estimate("change_percent", [100 * change / fmean(before) for change in changes])
        row["by_seed"] = {str(seed): run["val"] for seed, run in zip(seeds, group.runs, strict=True)}
        found[name] = row
    return found


def _estimate(name: str, values: Sequence[float]) -> dict[str, float]:
    mean, within = mean_interval(values)
    return {name: mean, f"{name}_ci95": within}


def markdown_page(found: dict, n: int, data: str, machine: str) -> str:
    """The figures of `n` seeds as Markdown."""
    lines = [
        f"# {BASE} against {OPTIMIZED}, {n} seeds",
        "",
        f"On the validation documents of {data}; lower is better.",
        "After ± is half of the 95% confidence interval over seeds (Student's t).",
        "Seconds are those of all steps, without compiling, validation and saving.",
        f"At equal time {OPTIMIZED} takes as many steps as {BASE}'s seconds allow, on a schedule of that length.",
        "",
        f"Machine: {machine}.",
        "",
        f"| | steps | seconds | {' | '.join(MEASURES.values())} |",
        "|---|---|---|---|---|",
    ]
    for name, row in found.items():
        cells = [f"{row['steps']:,}", f"{row['seconds']:,.1f} ± {row['seconds_ci95']:,.1f}"]
        cells += [f"{row[measure]:.4f} ± {row[f'{measure}_ci95']:.4f}" for measure in MEASURES]
        lines.append(f"| {TITLES[name]} | {' | '.join(cells)} |")
    lines += [
        "",
        f"Change against {BASE}, in pairs of the same seed (the same batches in the same order); below 0 is better:",
        "",
        f"| | {' | '.join(MEASURES.values())} | % of {BASE}'s mean, both |",
        "|---|---|---|---|",
    ]
    for name in list(found)[1:]:
        row = found[name]
        changes = [f"{row[f'{measure}_change']:+.4f} ± {row[f'{measure}_change_ci95']:.4f}" for measure in MEASURES]
        changes.append(f"{row['change_percent']:+.2f} ± {row['change_percent_ci95']:.2f}")
        lines.append(f"| {TITLES[name]} | {' | '.join(changes)} |")
    return "\n".join(lines) + "\n"
