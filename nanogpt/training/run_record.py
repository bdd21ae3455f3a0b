"""The record of a training run: curves, counts and times; saved with the weights and extended by a resumed run."""

import json
import math
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nanogpt.data.tokens.bins import Bin
from nanogpt.hardware import memory
from nanogpt.model.score import Score
from nanogpt.runtime import atomic

TRAIN_COLUMNS, VAL_COLUMNS = "step,train_loss,lr", "step,val_loss"


@dataclass
class RunRecord:
    """A run of `step` steps; losses in nats per token, times in seconds, summed over the processes that ran it.

    `train_rows` are (step, train_loss, lr), `val_rows` (step, val_loss), `new_losses` those since the last row.
    `skipped` steps changed nothing because the loss or the gradient was not finite, `skipped_in_row` of them are the
    last ones. `first_step_s` is the first step of each process, which compiles and allocates memory, `validation_s` all
    of validation and of texts for the log, `saving_s` all of saving, and `loop_s` the loop without these three, which
    trained `timed_tokens`; `update_s` of it is forward, backward and optimizer. `wall_s` is from the start of each
    process to its last save. `machines` are those that it ran on, with the `ComputeSetup` used there. `max_steps` is
    the length that the run was given, or that fitted into its minutes.
    """

    step: int = 0
    train_rows: list[tuple[int, float, float]] = field(default_factory=list)
    val_rows: list[tuple[int, float]] = field(default_factory=list)
    new_losses: list[float] = field(default_factory=list)
    skipped: int = 0
    skipped_in_row: int = 0
    timed_tokens: int = 0
    update_s: float = 0.0
    first_step_s: float = 0.0
    validation_s: float = 0.0
    saving_s: float = 0.0
    loop_s: float = 0.0
    wall_s: float = 0.0
    machines: list[dict] = field(default_factory=list)
    max_steps: int = 0

    def add_machine(self, machine: dict) -> None:
        """Add the machine that runs this process, and warn if an earlier process ran on another one."""
        if self.machines and machine not in self.machines:
            other = [key for key in machine if machine[key] != self.machines[-1].get(key)]
            print(
                f"this run began on another machine ({', '.join(other)}): its result may differ in the last bits",
                file=sys.stderr,
            )
        if machine not in self.machines:
            self.machines.append(machine)

    def log_step(self, loss: float) -> None:
        """Count a step; a loss of NaN means that it was skipped."""
        self.step += 1
        if math.isfinite(loss):
            self.new_losses.append(loss)
            self.skipped_in_row = 0
        else:
            self.skipped += 1
            self.skipped_in_row += 1
            print(f"step {self.step}: the loss or its gradient is not finite; skipped", file=sys.stderr)

    def log_row(self, lr: float) -> None:
        """Add a row to the training curve: the mean loss of the steps since the last row that were not skipped."""
        loss = sum(self.new_losses) / len(self.new_losses) if self.new_losses else math.nan
        self.train_rows.append((self.step, loss, lr))
        self.new_losses = []

    @property
    def train_losses(self) -> list[float]:
        """The loss of each row of the training curve."""
        return [loss for _, loss, _ in self.train_rows]

    @property
    def best_step(self) -> int:
        """The step with the lowest validation loss, the first of equals; 0 before any validation."""
        return min(self.val_rows, key=lambda row: row[1], default=(0, 0))[0]

    def finished(self, patience: int | None) -> bool:
        """Whether the run has made all steps, or had `patience` validations in a row without a new lowest loss."""
        without_gain = sum(step > self.best_step for step, _ in self.val_rows)
        return self.step >= self.max_steps or (patience is not None and without_gain >= patience)

    @property
    def tokens_per_s(self) -> float:
        """Tokens per second of `loop_s`."""
        return self.timed_tokens / self.loop_s if self.loop_s else 0.0

    @property
    def overhead_share(self) -> float:
        """The share of `loop_s` outside forward, backward and optimizer."""
        return 1 - self.update_s / self.loop_s if self.loop_s else 0.0

    def save(self, folder: Path | str, stage: str) -> None:
        """Write the curves as `<stage>-train.csv` and `<stage>-val.csv`, the machines as `<stage>-machine.json`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, header, rows in (
            ("train", TRAIN_COLUMNS, self.train_rows),
            ("val", VAL_COLUMNS, self.val_rows),
        ):
            atomic.write_text(folder / f"{stage}-{name}.csv", "\n".join([header, *csv_lines(rows)]) + "\n")
        atomic.write_text(folder / f"{stage}-machine.json", json.dumps(self.machines, indent=2) + "\n")

    def metrics(self, score: Score, val_data: Bin, started: float) -> dict:
        """Compute the run's metrics: losses, bits per byte, speed, memory, seconds since `started` (time.monotonic()).

        `score` is that of every document of `val_data`; `floor.bpb` is the entropy of the same documents, where it is
        known (built-in corpora).
        """
        figures = {
            "train": {"loss_nats": next(filter(math.isfinite, reversed(self.train_losses)))},
            "val": {"loss_nats": score.loss_nats, "bpb": score.bpb},
            "steps": self.step,
            "best_step": self.best_step,
            "skipped_steps": self.skipped,
            "tokens_per_s": self.tokens_per_s,
            "overhead_share": self.overhead_share,
            "first_step_s": self.first_step_s,
            "validation_s": self.validation_s,
            "saving_s": self.saving_s,
            "peak_mib": memory.peak_mib(),
            "wall_s": self.wall_s + time.monotonic() - started,
        }
        if val_data.counts.bits is not None:
            figures["floor"] = {"bpb": val_data.counts.bits / score.n_bytes}
        return figures


def describe_validation(figures: dict, keep: str) -> str:
    """Say in words, from a run's metrics, what its weights reach, and whose they are if not those of the last step.

    `keep` is the setting `train.keep`.
    """
    text = f"validation {figures['val']['bpb']:.3f} bits per byte"
    if keep == "last" or figures["best_step"] == figures["steps"]:
        return text
    return f"{text} with the weights of step {figures['best_step']} of {figures['steps']}, the best"


def csv_lines(rows: Iterable[Sequence[float]]) -> list[str]:
    """The lines of a CSV file: a step first, the other numbers with six digits."""
    return [",".join([str(step), *(f"{x:.6g}" for x in numbers)]) for step, *numbers in rows]
