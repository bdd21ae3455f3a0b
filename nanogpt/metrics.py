"""Metrics files: small nested JSON that `dvc metrics diff` can compare, and equal tables as CSV."""

import json
from pathlib import Path

from nanogpt import atomic


def write(path: Path | str, figures: dict) -> None:
    """Write figures to six significant digits. Raises ValueError for one that is not a finite number."""
    atomic.write_text(path, json.dumps(_rounded(figures), indent=2, allow_nan=False) + "\n")


def _rounded(value):
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return float(f"{value:.6g}") if isinstance(value, float) else value
