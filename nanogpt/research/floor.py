"""How close a run of the pipeline came to the known entropy of its text."""

from pathlib import Path

from nanogpt.runtime.errors import UserError
from nanogpt.runtime.metrics_file import read_metrics


def compare_with_floor(path: Path | str) -> dict[str, float]:
    """Read the metrics of a training; return `over_floor`, its bits per byte in validation over those of the floor.

    With it the two, both of every validation document, the steps, and the minutes of all that the training did. Raises
    UserError where there are no such metrics or the floor is not known.
    """
    metrics = read_metrics(path)
    if "val" not in metrics:
        raise UserError(f"{path} has no metrics of a training; run `dvc repro pretrain` first")
    if "floor" not in metrics:
        raise UserError(f"{path} has no floor: only the built-in stories and abstracts have a known entropy")
    ours, floor = metrics["val"]["bpb"], metrics["floor"]["bpb"]
    figures = {"over_floor": ours / floor, "val_bpb": ours, "floor_bpb": floor}
    return figures | {"steps": metrics["steps"], "minutes": metrics["wall_s"] / 60}
