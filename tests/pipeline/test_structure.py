"""The house as it stands: arrows point downhill, and DVC knows what each stage really imports."""

from typing import get_args

from imports import ROOT
from ruamel.yaml import YAML

from nanogpt.data.sources.document import Source
from nanogpt.pipeline.sections import SECTIONS

STAGES = {
    "check": "check",
    "prepare": "prepare",
    "pretrain": "pretrain",
    "lora-finetune": "lora_finetune",
    "merge": "merge",
    "sample": "sample",
    "benchmark": "benchmark",
}
DVC = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
PARAMS = YAML(typ="safe").load(ROOT / "params.yaml")


def spec(stage: str) -> dict:
    return DVC[stage].get("do", DVC[stage])


def test_the_stages_are_those_of_the_contract():
    assert list(DVC) == list(STAGES)
    for stage, script in STAGES.items():
        assert spec(stage)["cmd"].split()[:3] == ["python", "-m", f"stages.{script}"]


def test_every_setting_steers_a_stage_besides_check():
    declared = {key for stage in STAGES if stage != "check" for key in spec(stage).get("params", [])}
    for role in ("pretrain", "finetune"):
        declared |= {key.replace("${key}", role) for key in declared}
    for source in get_args(Source):
        declared |= {f"data.{key}" for key in leaves({source: PARAMS["data"][source]})}
    assert set(leaves(PARAMS)) - declared == {"train.checkpoint_every"}  # it changes no result
    assert set(spec("check")["params"]) == set(PARAMS) == set(SECTIONS)


def leaves(value: dict, prefix: str = ""):
    for key, item in value.items():
        if isinstance(item, dict):
            yield from leaves(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def test_outs_are_cached_and_metrics_are_not():
    for stage in STAGES:
        assert all(isinstance(out, str) for out in spec(stage).get("outs", []))
        for kind in ("metrics", "plots"):
            for entry in spec(stage).get(kind, []):
                assert list(entry.values()) == [{"cache": False}]
