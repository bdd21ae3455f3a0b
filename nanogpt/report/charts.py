"""Charts as SVG, drawn without a browser: curves of validation, bars, points."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from nanogpt.report.figures import read_validation
from nanogpt.runtime import atomic

STAGES = {"pretrain": "pretraining", "lora-finetune": "fine-tuning"}
VEGA_LITE = "5.21"  # the newest of the version that DVC's templates are written for
SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"


def write_curves(metrics: Path | str, out: Path | str) -> None:
    """Write the validation curves of a folder of metrics to an SVG file."""
    picture = draw_curves({title: read_validation(Path(metrics), stage) for stage, title in STAGES.items()})
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    atomic.write_text(out, picture)


def draw_curves(curves: Mapping[str, tuple[pd.DataFrame, float | None]]) -> str:
    """Draw validation curves, each by its name and as of `read_validation`; known floors are dashed."""
    rows, floors = [], []
    for name, (curve, floor) in curves.items():
        rows += [{"run": name, **row} for row in curve.to_dict("records")]
        floors += [{"run": name, "bpb": floor}] if floor is not None else []
    bits = {"field": "bpb", "type": "quantitative", "scale": {"type": "log", "nice": False, "padding": 8}}
    shared = {
        "y": bits | {"title": "bits per byte", "axis": {"values": [0.2, 0.3, 0.5, 1, 2, 4, 8]}},
        "color": {"field": "run", "type": "nominal", "title": None, "sort": list(curves), "legend": {"orient": "top"}},
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
