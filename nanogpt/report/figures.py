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


def read_curve(path: Path) -> pd.DataFrame:
    """The table of a CSV file. Raises UserError where there is none."""
    read_text(path)
    return pd.read_csv(path)
