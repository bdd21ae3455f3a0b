"""A picture of the pipeline's run: both curves of validation, with the floors that no model can go below."""

import json
import math
from pathlib import Path

import pandas as pd

from nanogpt.runtime import atomic

RUNS = {"pretrain": "pretraining", "lora-finetune": "fine-tuning"}
DOMAINS = {"pretrain": "pretrain", "lora-finetune": "finetune"}


def draw_curves(metrics: Path | str, out: Path | str) -> None:
    """Draw the validation curves of a folder of metrics to an SVG file, in bits per byte; known floors are dashed.

    Bits per byte of a curve are its nats per token over the bytes of a token of that text, from evaluate.json. Raises
    FileNotFoundError where the pipeline has not run.
    """
    import vl_convert

    metrics = Path(metrics)
    evaluated = json.loads((metrics / "evaluate.json").read_text("utf-8"))
    rows, floors = [], []
    for run, title in RUNS.items():
        bytes_per_token = evaluated["pretrained"][DOMAINS[run]]["bytes_per_token"]
        curve = pd.read_csv(metrics / f"{run}-val.csv")
        bits = curve.val_loss / math.log(2) / bytes_per_token
        rows += [{"run": title, "step": int(step), "bpb": bpb} for step, bpb in zip(curve.step, bits, strict=True)]
        figures = json.loads((metrics / f"{run}.json").read_text("utf-8"))
        if "floor" in figures:
            floors.append({"run": title, "bpb": figures["floor"]["bpb"]})
    spec = {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "description": "Validation loss in bits per byte over training steps, with the floor of each text",
        "width": 560,
        "height": 220,
        "background": "white",
        "layer": [
            {"data": {"values": rows}, "mark": {"type": "line", "point": True}, "encoding": _encoding(step=True)},
            {"data": {"values": floors}, "mark": {"type": "rule", "strokeDash": [5, 4]}, "encoding": _encoding()},
        ],
    }
    atomic.write_text(out, vl_convert.vegalite_to_svg(spec, vl_version="5.21"))


def _encoding(step: bool = False) -> dict:
    bits = {"field": "bpb", "type": "quantitative", "scale": {"type": "log", "nice": False, "padding": 8}}
    encoding = {
        "y": bits | {"title": "bits per byte", "axis": {"values": [0.2, 0.3, 0.5, 1, 2, 4, 8]}},
        "color": {"field": "run", "type": "nominal", "title": None, "legend": {"orient": "top"}},
    }
    return encoding | ({"x": {"field": "step", "type": "quantitative", "title": "step"}} if step else {})
