"""A training run in the terminal, while it goes on or afterwards: curve, speed, time left, memory, its latest text."""

import io
import math
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from nanogpt.report.figures import read_json
from nanogpt.runtime import locks
from nanogpt.runtime.errors import UserError
from nanogpt.runtime.progress import describe_time
from nanogpt.runtime.workdir import DONE, TRAIN_LOG, VAL_LOG, read_logged_texts, run_folders

STAGES = ("lora-finetune", "pretrain")  # the later one first
REFRESH_S = 1.0
SAMPLE_LINES = 5
CHART_LINES = 8  # at least


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

    @property
    def age(self) -> float:
        """When it began, if it is running, or else when it was last written to; the greater, the newer."""
        path = self.folder / "lock" if self.running else self.train_file
        return path.stat().st_mtime if path.exists() else 0.0

    def describe_state(self) -> str:
        """Say whether it is running, finished or can be resumed."""
        if self.running:
            return "running"
        if self.stage or (self.folder / DONE).exists():
            return "finished"
        return "stopped; the same command resumes it" if any(self.folder.glob("step-*.pt")) else "stopped"


def watch(folder: Path | None, once: bool) -> None:
    """Show the run in `folder`, or the newest one, until Ctrl-C; once where stdout is no terminal or with `once`.

    Raises UserError where there is nothing to show once, or `folder` has no curves.
    """
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console()
    if once or not console.is_terminal:
        print(draw_run(find_run(folder), console.width, console.height))
        return
    view = ""
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                try:
                    view = draw_run(find_run(folder), console.width, console.height - 1)
                except (UserError, FileNotFoundError) as error:  # before it begins, or when its folder is removed
                    if folder and not view:
                        raise
                    view = view if folder else str(error)
                live.update(Text.from_ansi(view), refresh=True)
                time.sleep(REFRESH_S)
    except KeyboardInterrupt:
        print(view)  # stays on the terminal


def find_run(folder: Path | None) -> Run:
    """The run in `folder`, in `.work` or with metrics in it; for None the one that is running, or else the newest.

    Raises UserError where there is none.
    """
    found = [Run(path) for path in ([folder] if folder else run_folders())]
    found += [Run(folder or Path("metrics"), stage) for stage in STAGES]
    found = [run for run in found if run.running or run.train_file.exists()]
    if not found:
        where = f"{folder}: no curves of a run there" if folder else "no run yet: neither in .work nor in metrics"
        raise UserError(f"{where}; `dvc repro` makes one")
    return max(found, key=lambda run: (run.running, run.age))


def draw_run(run: Run, width: int, height: int) -> str:
    """The run as text of `height` lines of `width` characters, more where the terminal is very low."""
    train = _read_curve(run.train_file, "step", "train_loss")
    val = _read_curve(run.val_file, "step", "val_loss")
    head = [f"{run.stage or run.folder.parent.name}, {run.describe_state()} ({run.folder})"]
    head += textwrap.wrap(_describe_progress(run, train, val), width)
    sample = _describe_sample(run, width)
    rows = height - len(head) - len(sample)
    if rows < CHART_LINES:
        rows, sample = rows + len(sample), []
    return "\n".join([*head, *_draw_curves(train, val, width, max(CHART_LINES, rows)), *sample])


def _read_curve(path: Path, *columns: str) -> pd.DataFrame:
    try:
        text = path.read_text("utf-8") if path.exists() else ""
        curve = pd.read_csv(io.StringIO(text[: text.rfind("\n") + 1]))  # the last line may be half written
    except pd.errors.EmptyDataError:
        return pd.DataFrame({column: [] for column in columns})
    except ValueError:
        curve = pd.DataFrame()
    if not set(columns).issubset(curve):
        raise UserError(f"{path}: damaged, no curve can be read from it")
    return curve


def _describe_progress(run: Run, train: pd.DataFrame, val: pd.DataFrame) -> str:
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
        speed, mib = figures["tokens_per_s"] or 0.0, figures["peak_mib"]
        seconds = f"{describe_time(figures['wall_s'])} in all"
    else:
        speed, mib = last.tokens_per_s, last.peak_mib
        seconds = f"{describe_time(last.seconds_left)} left" if run.running and last.seconds_left > 0 else ""
    facts += [f"{speed:,.0f} tokens/s" if speed > 0 else "", seconds, f"{mib:,.0f} MiB" if mib > 0 else ""]
    return ", ".join(filter(None, facts))


def _draw_curves(train: pd.DataFrame, val: pd.DataFrame, width: int, height: int) -> list[str]:
    """The lines of a chart of both curves, the loss in nats per token on a logarithmic axis."""
    import plotext

    plotext.clear_figure()
    plotext.theme("clear")
    plotext.plotsize(width, height)
    shown = []
    for name, curve, marker in (("training", train, "braille"), ("validation", val, "x")):
        rows = curve.iloc[:, :2].dropna()
        rows = rows[rows.iloc[:, 1] > 0]
        losses = [math.log(loss) for loss in rows.iloc[:, 1]]
        if losses:
            draw = plotext.plot if marker == "braille" else plotext.scatter
            draw(rows.iloc[:, 0].tolist(), losses, marker=marker, label=name)
        shown += losses
    if shown:
        ticks = [min(shown) + i * (max(shown) - min(shown)) / 4 for i in range(5)]
        plotext.yticks(ticks, [f"{math.exp(tick):.3g}" for tick in ticks])
    plotext.xlabel("step (loss in nats per token)")
    return [line.replace("\x1b[0m", "") for line in plotext.build().rstrip("\n").split("\n")]


def _describe_sample(run: Run, width: int) -> list[str]:
    """The lines of the latest text of the run, without control characters, which models of bytes write."""
    samples = [] if run.stage else read_logged_texts(run.folder)
    if not samples:
        return []
    text = " ".join(f"{samples[-1]['prompt']}|{samples[-1]['text']}".split())
    text = "".join(letter if letter.isprintable() else "�" for letter in text)
    return textwrap.wrap(f"after {samples[-1]['step']} steps: {text}", width, max_lines=SAMPLE_LINES, placeholder=" …")
