"""Charts as SVG, drawn without a browser: curves of validation, bars, points."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from nanogpt.report.figures import read_curve, read_json
from nanogpt.runtime import atomic

RUNS = {"pretrain": "pretraining", "lora-finetune": "fine-tuning"}
DOMAINS = {"pretrain": "pretrain", "lora-finetune": "finetune"}
VEGA_LITE = "5.21"  # the newest of the version that DVC's templates are written for
SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"


def write_curves(metrics: Path | str, out: Path | str) -> None:
    """Write `draw_curves` to an SVG file."""
    picture = draw_curves(metrics)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    atomic.write_text(out, picture)


def draw_curves(metrics: Path | str) -> str:
    """Draw the validation curves of a folder of metrics, in bits per byte; known floors are dashed.

    Bits per byte of a curve are its nats per token over the bytes of a token of that text, from evaluate.json. Raises
    UserError where the pipeline has not run.
    """
    metrics = Path(metrics)
    evaluated = read_json(metrics / "evaluate.json")
    rows, floors = [], []
    for run, title in RUNS.items():
        scored = evaluated.get("pretrained", {}).get(DOMAINS[run])
        if scored is None:  # its tokenizer cannot read that text
            continue
        curve = read_curve(metrics / f"{run}-val.csv")
        bits = curve.val_loss / math.log(2) / scored["bytes_per_token"]
        rows += [{"run": title, "step": int(step), "bpb": bpb} for step, bpb in zip(curve.step, bits, strict=True)]
        figures = read_json(metrics / f"{run}.json")
        if "floor" in figures:
            floors.append({"run": title, "bpb": figures["floor"]["bpb"]})
    bits = {"field": "bpb", "type": "quantitative", "scale": {"type": "log", "nice": False, "padding": 8}}
    shared = {
        "y": bits | {"title": "bits per byte", "axis": {"values": [0.2, 0.3, 0.5, 1, 2, 4, 8]}},
        "color": {"field": "run", "type": "nominal", "title": None, "legend": {"orient": "top"}},
    }
    steps = shared | {"x": {"field": "step", "type": "quantitative", "title": "step"}}
    return _draw(
        {
            "width": 560,
            "height": 220,
            "layer": [
                {"data": {"values": rows}, "mark": {"type": "line", "point": True}, "encoding": steps},
                {"data": {"values": floors}, "mark": {"type": "rule", "strokeDash": [5, 4]}, "encoding": shared},
            ],
        }
    )


def draw_bars(values: Mapping[str, float], title: str) -> str:
    """Draw a bar for each value, in their order."""
    rows = [{"name": name, "value": value} for name, value in values.items()]
    return _draw(
        {
            "width": 420,
            "height": {"step": 20},
            "data": {"values": rows},
            "mark": "bar",
            "encoding": {
                "x": {"field": "value", "type": "quantitative", "title": title},
                "y": {"field": "name", "type": "nominal", "title": None, "sort": None, "axis": {"labelLimit": 250}},
            },
        }
    )


def draw_points(rows: Iterable[Mapping[str, float]], x: str, y: str, label: str, titles: tuple[str, str]) -> str:
    """Draw a labelled point for each row, at its values of `x` and `y`."""
    encoding = {
        "x": {"field": x, "type": "quantitative", "title": titles[0]},
        "y": {"field": y, "type": "quantitative", "title": titles[1], "scale": {"zero": False}},
    }
    text = {"type": "text", "align": "left", "dx": 7}
    return _draw(
        {
            "width": 420,
            "height": 200,
            "data": {"values": list(rows)},
            "layer": [
                {"mark": {"type": "point", "filled": True, "size": 60}, "encoding": encoding},
                {"mark": text, "encoding": encoding | {"text": {"field": label, "type": "nominal"}}},
            ],
        }
    )


def _draw(spec: dict) -> str:
    import vl_convert

    return vl_convert.vegalite_to_svg({"$schema": SCHEMA, "background": "white", **spec}, vl_version=VEGA_LITE)
