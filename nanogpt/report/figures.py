"""Reads what the pipeline has written."""

import json
from pathlib import Path

import pandas as pd

from nanogpt.runtime.errors import UserError


def read_text(path: Path) -> str:
    """The content of a file. Raises UserError where the pipeline has not come so far."""
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; run the pipeline to its end: `dvc repro`") from None


def read_json(path: Path):
    """The values of a JSON file. Raises UserError where there is none, or it is damaged."""
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); write it again with `dvc repro --force`") from None


def read_curve(path: Path, *columns: str) -> pd.DataFrame:
    """The table of a CSV file. Raises UserError where there is none, it is damaged, or one of `columns` is missing."""
    read_text(path)
    try:
        curve = pd.read_csv(path)
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); write it again with `dvc repro --force`") from None
    if missing := ", ".join(set(columns).difference(curve)):
        raise UserError(f"{path} has no column {missing}; write it again with `dvc repro --force`")
    return curve


def read_validation(metrics: Path, stage: str) -> tuple[pd.DataFrame, float | None]:
    """The validation curve of pretrain or lora-finetune in bits per byte, and the floor where it is known.

    Columns step and bpb. A curve is in nats per token, of some windows; all of the validation text says how many bits
    per byte a nat per token is. Raises UserError where the stage has not run.
    """
    figures = read_json(metrics / f"{stage}.json")
    curve = read_curve(metrics / f"{stage}-val.csv", "step", "val_loss")
    bpb = curve.val_loss * (figures["val"]["bpb"] / figures["val"]["loss_nats"])
    return pd.DataFrame({"step": curve.step, "bpb": bpb}), figures.get("floor", {}).get("bpb")
