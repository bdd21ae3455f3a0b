"""Imports follow the order of rooms in docs/architecture.md, and dvc.yaml names the rooms that each stage imports."""

import ast
from pathlib import Path
from typing import get_args

import pytest
from imports import ROOMS, ROOT, closure, imported
from ruamel.yaml import YAML

from nanogpt.data.sources.document import Source
from nanogpt.pipeline.sections import SECTIONS
from nanogpt.runtime.fingerprint import NEVER_IN_RESULTS

STAGES = {
    "check": "check",
    "prepare": "prepare",
    "pretrain": "pretrain",
    "lora-finetune": "lora_finetune",
    "merge": "merge",
    "sample": "sample",
    "evaluate": "evaluate",
    "benchmark": "benchmark",
    "report": "report",
}
WITHOUT_RESULT = {"checkpoint_every", "sample_every", "tensorboard", "timeout_s"}  # settings of train
DVC = YAML(typ="safe").load(ROOT / "dvc.yaml")
PARAMS = YAML(typ="safe").load(ROOT / "params.yaml")
MODULES = sorted(path.relative_to(ROOT) for path in (ROOT / "nanogpt").rglob("*.py") if path.name != "__init__.py")


def room(path: Path) -> str:
    return path.parent.relative_to("nanogpt").as_posix()


def spec(stage: str) -> dict:
    found = DVC["stages"][stage]
    return found.get("do", found)


def test_every_module_is_in_a_room():
    assert {room(path) for path in MODULES} == set(ROOMS)


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports_point_downhill(path):
    rooms = {room(other) for other in imported(path) if other in MODULES}
    assert {other for other in rooms if ROOMS.index(other) > ROOMS.index(room(path))} == set()
    assert not any(other.parts[0] == "stages" for other in imported(path))


def test_no_module_imports_itself_by_way_of_others():
    assert [path for path in MODULES if any(path in closure(other) for other in imported(path))] == []


def test_an_init_holds_a_docstring_alone():
    texts = [(ROOT / path.parent / "__init__.py").read_text(encoding="utf-8") for path in MODULES]
    assert all(len(ast.parse(text).body) == 1 and ast.get_docstring(ast.parse(text)) for text in texts)


def test_no_module_is_longer_than_350_lines():
    assert {path: n for path in MODULES if (n := (ROOT / path).read_text(encoding="utf-8").count("\n")) > 350} == {}


def test_the_stages_are_those_of_the_contract():
    assert list(DVC["stages"]) == list(STAGES)
    for stage, script in STAGES.items():
        assert spec(stage)["cmd"].split()[:3] == ["python", "-m", f"stages.{script}"]


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "check"])
def test_code_deps_are_the_rooms_that_the_stage_imports(stage):
    declared = {dep for dep in spec(stage)["deps"] if dep.startswith("nanogpt")}
    modules = closure(Path("stages", f"{STAGES[stage]}.py"))
    used = {f"nanogpt/{room(path)}" for path in modules if path in MODULES}
    never = {name.replace(".", "/") for name in NEVER_IN_RESULTS}
    assert not declared & never and len(declared) <= 8
    needed = used - never
    assert {path for path in needed if not any(f"{path}/".startswith(f"{dep}/") for dep in declared)} == set()
    assert {dep for dep in declared if not any(f"{path}/".startswith(f"{dep}/") for path in needed)} == set()


def test_check_depends_on_all_code():
    assert [dep for dep in spec("check")["deps"] if not dep.startswith("$")] == ["nanogpt"]


def test_every_setting_steers_a_stage_besides_check():
    declared = {key for stage in STAGES if stage != "check" for key in spec(stage).get("params", [])}
    for role in ("pretrain", "finetune"):
        declared |= {key.replace("${key}", role) for key in declared}
    declared |= {f"data.{source}" for source in get_args(Source)}
    steering = {key for key in leaves(PARAMS) if any(f"{key}.".startswith(f"{name}.") for name in declared)}
    assert set(leaves(PARAMS)) - steering == {f"train.{key}" for key in WITHOUT_RESULT}
    assert set(spec("check")["params"]) == set(PARAMS) == set(SECTIONS)


def test_fine_tuning_depends_on_what_its_section_leaves_to_train():
    kept = PARAMS["train"].keys() - PARAMS["lora"].keys() - WITHOUT_RESULT - {"init_from"}
    assert {name for name in spec("lora-finetune")["params"] if "." in name} == {f"train.{key}" for key in kept}


def leaves(value: dict, prefix: str = ""):
    for key, item in value.items():
        if isinstance(item, dict):
            yield from leaves(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def test_outs_are_cached_and_metrics_are_not():
    for stage in STAGES:
        for out in spec(stage).get("outs", []):  # curves are in git too
            assert isinstance(out, str) or {name[-4:]: how for name, how in out.items()} == {".csv": {"cache": False}}
        for entry in spec(stage).get("metrics", []):
            assert list(entry.values()) == [{"cache": False}]


def test_models_are_artifacts():
    outs = {str(out) for stage in STAGES for out in spec(stage).get("outs", [])}
    assert {found["path"] for found in DVC["artifacts"].values()} == {out for out in outs if out.startswith("models/")}
