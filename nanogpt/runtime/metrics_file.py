"""Metrics files: small nested JSON that `dvc metrics diff` can compare."""

import json
from pathlib import Path

from nanogpt.runtime import atomic


def write_metrics(path: Path | str, figures: dict) -> None:
    """Write figures to six significant digits. Raises ValueError for one that is not a finite number."""
    text = json.dumps(_rounded(figures), indent=2, allow_nan=False) + "\n"
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    atomic.write_text(path, text)


def _rounded(value):
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return float(f"{value:.6g}") if isinstance(value, float) else value
