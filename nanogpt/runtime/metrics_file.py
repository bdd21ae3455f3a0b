"""Write metrics files: small nested JSON that `dvc metrics diff` compares."""

import json
from pathlib import Path

from nanogpt.runtime import atomic


def write_metrics(path: Path | str, figures: dict) -> None:
    """Write figures with six significant digits; creates missing folders. Raises ValueError for NaN and infinity."""
    exact = json.dumps(figures, allow_nan=False)
    rounded = json.loads(exact, parse_float=lambda number: float(f"{float(number):.6g}"))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    atomic.write_text(path, json.dumps(rounded, indent=2) + "\n")
