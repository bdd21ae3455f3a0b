"""The log of a run that goes on: curves and texts in its folder, and event files for TensorBoard."""

import contextlib
import json
import time
from pathlib import Path

from nanogpt.hardware import memory
from nanogpt.runtime import atomic
from nanogpt.runtime.workdir import SAMPLES_LOG, TRAIN_LOG, VAL_LOG, read_logged_texts, work_root
from nanogpt.training.run_record import TRAIN_COLUMNS, VAL_COLUMNS, RunRecord, csv_lines

SPEED_COLUMNS = "max_steps,tokens_per_s,seconds_left,peak_mib"


class RunLog:
    """Adds a line to `train.csv`, `val.csv` and `samples.jsonl` in `folder` for each row, validation and text.

    The first lines are those of `record`, which earlier processes of the run made, without their speed. With
    `tensorboard` what is added goes to event files in `.work/tensorboard/<stage>/<run>` too. A full disk, which the
    next saved state reports, leaves lines out.
    """

    def __init__(self, folder: Path, record: RunRecord, step_tokens: int, tensorboard: bool):
        self.folder, self.record, self.step_tokens = folder, record, step_tokens
        self.last_step, self.last = record.step, time.monotonic()
        blank = "," * (1 + SPEED_COLUMNS.count(","))
        rows = [f"{row}{blank}" for row in csv_lines(record.train_rows)]
        samples = [json.dumps(sample) for sample in read_logged_texts(folder) if sample["step"] <= record.step]
        for name, lines in (
            (SAMPLES_LOG, samples),
            (VAL_LOG, [VAL_COLUMNS, *csv_lines(record.val_rows)]),
            (TRAIN_LOG, [f"{TRAIN_COLUMNS},{SPEED_COLUMNS}", *rows]),
        ):
            with contextlib.suppress(OSError):
                atomic.write_text(folder / name, "".join(f"{line}\n" for line in lines))
        self.events = _open_events(folder, record.step) if tensorboard else None

    def add_row(self, seconds_left: float) -> None:
        """Add the newest row of the training curve, with the speed since the row before it."""
        (step, loss, lr), now = self.record.train_rows[-1], time.monotonic()
        tokens_per_s = (step - self.last_step) * self.step_tokens / (now - self.last)
        self.last_step, self.last = step, now
        speed = f"{self.record.max_steps},{tokens_per_s:.0f},{seconds_left:.0f},{memory.peak_mib():.0f}"
        self._append(TRAIN_LOG, f"{csv_lines([(step, loss, lr)])[0]},{speed}")
        self._add_scalars(step, {"loss/train": loss, "learning rate": lr, "tokens per second": tokens_per_s})

    def add_validation(self) -> None:
        """Add the newest validation."""
        step, loss = self.record.val_rows[-1]
        self._append(VAL_LOG, csv_lines([(step, loss)])[0])
        self._add_scalars(step, {"loss/validation": loss})

    def add_sample(self, step: int, prompt: str, text: str) -> None:
        """Add the text with which the model went on from `prompt` after `step` steps."""
        self._append(SAMPLES_LOG, json.dumps({"step": step, "prompt": prompt, "text": text}))
        if self.events:
            with contextlib.suppress(OSError):
                self.events.add_text("sample", f"**{prompt}**{text}", step)

    def close(self) -> None:
        """Close the event files."""
        if self.events:
            with contextlib.suppress(OSError):
                self.events.close()

    def _append(self, name: str, line: str) -> None:
        with contextlib.suppress(OSError), (self.folder / name).open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    def _add_scalars(self, step: int, values: dict[str, float]) -> None:
        with contextlib.suppress(OSError):
            for name, value in values.items() if self.events else ():
                self.events.add_scalar(name, value, step)


def _open_events(folder: Path, step: int):
    from torch.utils.tensorboard import SummaryWriter

    place = work_root() / "tensorboard" / folder.parent.name / folder.name
    return SummaryWriter(place, purge_step=step + 1, flush_secs=10)  # what is later than `step` will be made again
