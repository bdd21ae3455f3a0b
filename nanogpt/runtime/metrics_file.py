"""Write metrics files: small nested JSON that `dvc metrics diff` compares."""

import json
from pathlib import Path

from nanogpt.runtime import atomic
from nanogpt.runtime.errors import UserError


def read_metrics(path: Path | str) -> dict:
    """Return the content of a file of metrics, {} where there is none. Raises UserError for another kind of file."""
    try:
        found = json.loads(Path(path).read_text("utf-8")) if Path(path).exists() else {}
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{path} is not a file of figures in JSON; write it again, or choose another --out")
    return found


def add_metrics(path: Path | str, key: str, figures: dict) -> None:
    """Write `figures` under `key` of a file of metrics, whose other keys stay; creates a missing file."""
    write_metrics(path, read_metrics(path) | {key: figures})


def write_metrics(path: Path | str, figures: dict) -> None:
    """Write figures with six significant digits; creates missing folders. Raises ValueError for NaN and infinity."""
    exact = json.dumps(figures, allow_nan=False)
    rounded = json.loads(exact, parse_float=lambda number: float(f"{float(number):.6g}"))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    atomic.write_text(path, json.dumps(rounded, indent=2) + "\n")
