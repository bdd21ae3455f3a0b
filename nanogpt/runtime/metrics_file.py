"""Write metrics files: small nested JSON that `dvc metrics diff` compares."""

import json
from pathlib import Path

from nanogpt.runtime import atomic


def write_metrics(path: Path | str, figures: dict) -> None:
    """Write figures with six significant digits; creates missing folders. Raises ValueError for NaN and infinity."""
    text = json.dumps(_round(figures), indent=2, allow_nan=False) + "\n"
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    atomic.write_text(path, text)


def _round(value):
    if isinstance(value, dict):
        return {key: _round(item) for key, item in value.items()}
    return float(f"{value:.6g}") if isinstance(value, float) else value
