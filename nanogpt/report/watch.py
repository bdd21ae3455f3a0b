"""A training run in the terminal, while it goes on or afterwards: curve, speed, time left, memory, its latest text."""

import io
import json
import math
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from nanogpt.report.figures import read_json, read_text
from nanogpt.runtime import locks
from nanogpt.runtime.errors import UserError
from nanogpt.runtime.workdir import DONE, SAMPLES_LOG, TRAIN_LOG, VAL_LOG, run_folders

STAGES = ("lora-finetune", "pretrain")  # the later one first
REFRESH_S = 1.0
SAMPLE_LINES = 5


@dataclass(frozen=True)
class Run:
    """The curves of a run: a folder in `.work`, or of a `stage` what it left in a folder of metrics."""

    folder: Path
    stage: str | None = None

    @property
    def train_file(self) -> Path:
        """The training curve."""
        return self.folder / (f"{self.stage}-train.csv" if self.stage else TRAIN_LOG)

    @property
    def val_file(self) -> Path:
        """The validation curve."""
        return self.folder / (f"{self.stage}-val.csv" if self.stage else VAL_LOG)

    @property
    def running(self) -> bool:
        """Whether a process trains it now."""
        return not self.stage and locks.is_held(self.folder)

    def state(self) -> str:
        """What has become of it."""
        if self.running:
            return "running"
        return "finished" if self.stage or (self.folder / DONE).exists() else "stopped; the same command resumes it"


def watch(folder: Path | None, once: bool) -> None:
    """Show the run in `folder`, or the newest one, until Ctrl-C; once where stdout is no terminal or with `once`.

    Raises UserError where there is nothing to show once, or `folder` has no curves.
    """
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console()
    if once or not console.is_terminal:
        print(_view(find_run(folder), console.width, console.height))
        return
    view = ""
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                try:
                    view = _view(find_run(folder), console.width, console.height - 1)
                except UserError as error:
                    if folder:
                        raise
                    view = str(error)
                live.update(Text.from_ansi(view), refresh=True)
                time.sleep(REFRESH_S)
    except KeyboardInterrupt:
        print(view)  # stays on the terminal


def find_run(folder: Path | None) -> Run:
    """The run in `folder`, in `.work` or with metrics in it; for None the one that runs, or else the newest.

    Raises UserError where there is none.
    """
    found = [Run(path) for path in ([folder] if folder else run_folders())]
    found += [Run(folder or Path("metrics"), stage) for stage in STAGES]
    found = [run for run in found if run.train_file.exists()]
    if not found:
        where = f"{folder}: no curves of a run there" if folder else "no run yet: neither in .work nor in metrics"
        raise UserError(f"{where}; `dvc repro` makes one")
    return max(found, key=lambda run: (run.running, run.train_file.stat().st_mtime))


def _view(run: Run, width: int, height: int) -> str:
    train, val = _read_curve(run.train_file), _read_curve(run.val_file)
    lines = [f"{run.stage or run.folder.parent.name}, {run.state()} ({run.folder})", _describe(run, train, val)]
    sample = _latest_sample(run, width)
    rows = height - len(lines) - len(sample)
    return "\n".join([*lines, *_draw(train, val, width, max(8, rows)), *sample])


def _read_curve(path: Path) -> pd.DataFrame:
    text = read_text(path)
    try:
        return pd.read_csv(io.StringIO(text[: text.rfind("\n") + 1]))  # the last line may be half written
    except ValueError:
        raise UserError(f"{path}: damaged, no curve can be read from it") from None


def _describe(run: Run, train: pd.DataFrame, val: pd.DataFrame) -> str:
    if train.empty:
        return "no step logged yet (train.log_every)"
    last = train.iloc[-1]
    of = f" of {last.max_steps:,.0f}" if last.get("max_steps", 0) > 0 else ""
    facts = [f"step {last.step:,.0f}{of}", f"loss {last.train_loss:.3f}"]
    if len(val):
        best = val.loc[val.val_loss.idxmin()]
        facts.append(f"validation {val.val_loss.iloc[-1]:.3f} (best {best.val_loss:.3f} at step {best.step:,.0f})")
    if run.stage:
        figures = read_json(run.folder / f"{run.stage}.json")
        speed, seconds, mib = figures["tokens_per_s"], f"{_time(figures['wall_s'])} in all", figures["peak_mib"]
    else:
        speed, mib = last.tokens_per_s, last.peak_mib
        seconds = f"{_time(last.seconds_left)} left" if run.running and last.seconds_left > 0 else ""
    facts += [f"{speed:,.0f} tokens/s" if speed > 0 else "", seconds, f"{mib:,.0f} MiB" if mib > 0 else ""]
    return ", ".join(filter(None, facts))


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _draw(train: pd.DataFrame, val: pd.DataFrame, width: int, height: int) -> list[str]:
    """The lines of a chart of both curves, the loss in nats per token on a logarithmic axis."""
    import plotext

    plotext.clear_figure()
    plotext.theme("clear")
    plotext.plotsize(width, height)
    for name, curve, marker in (("training", train, "braille"), ("validation", val, "x")):
        rows = curve.iloc[:, :2].dropna()
        rows = rows[rows.iloc[:, 1] > 0]
        if len(rows):
            draw = plotext.plot if marker == "braille" else plotext.scatter
            draw(rows.iloc[:, 0].tolist(), [math.log(loss) for loss in rows.iloc[:, 1]], marker=marker, label=name)
    shown = [math.log(loss) for curve in (train, val) for loss in curve.iloc[:, 1].dropna() if loss > 0]
    if shown:
        ticks = [min(shown) + i * (max(shown) - min(shown)) / 4 for i in range(5)]
        plotext.yticks(ticks, [f"{math.exp(tick):.3g}" for tick in ticks])
    plotext.xlabel("step (loss in nats per token)")
    return [line.replace("\x1b[0m", "") for line in plotext.build().rstrip("\n").split("\n")]


def _latest_sample(run: Run, width: int) -> list[str]:
    path = run.folder / SAMPLES_LOG
    lines = path.read_text("utf-8").split("\n")[:-1] if not run.stage and path.exists() else []
    if not lines:
        return []
    sample = json.loads(lines[-1])
    text = " ".join(f"{sample['prompt']}|{sample['text']}".split())
    return textwrap.wrap(f"after {sample['step']} steps: {text}", width, max_lines=SAMPLE_LINES, placeholder=" …")
