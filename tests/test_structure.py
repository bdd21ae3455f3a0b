"""The house as it stands: arrows point downhill, and DVC knows what each stage really imports."""

from pathlib import Path
from typing import get_args

import pytest
from imports import ROOT, closure, imported
from ruamel.yaml import YAML

from nanogpt import settings
from nanogpt.corpus.document import Source

# A module imports only from those before it.
ORDER = [
    "errors", "process", "sums", "atomic", "scratch", "recorded", "params", "flags", "metrics",
    "corpus/document", "corpus/grammar", "corpus/story_words", "corpus/stories", "corpus/abstract_words",
    "corpus/abstracts", "corpus/pages", "corpus/hub", "corpus/network", "corpus/arxiv_api", "corpus/shakespeare",
    "corpus/records", "corpus/files", "corpus/__init__",
    "tokenizer", "tokens", "repeats", "bins", "prepare",
    "model/config", "model/cache", "model/loss", "model/base", "model/optimized", "model/__init__",
    "hardware/cores", "hardware/memory", "hardware/rates", "hardware/__init__", "compiling", "choices", "optim",
    "identity", "evaluate", "estimate",
    "checkpoint/config", "checkpoint/weights", "checkpoint/__init__", "start",
    "card", "resume/every", "resume/fingerprint", "resume/lock", "resume/torn", "resume/states", "resume/__init__",
    "progress", "record", "train", "intervals", "seeds", "adapter", "lora", "merge", "generate", "compare",
    "bench/race", "bench/settings", "bench/variants", "bench/parts", "bench/improvements", "bench/training",
    "bench/ablation", "bench/growth", "bench/preparing", "settings",
]  # fmt: skip
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


def modules() -> list[Path]:
    return sorted(path.relative_to(ROOT) for path in (ROOT / "nanogpt").rglob("*.py"))


def name(path: Path) -> str:
    return path.with_suffix("").relative_to("nanogpt").as_posix()


def says_nothing(path: Path) -> bool:
    """An __init__.py of a docstring alone: importing it can change nothing."""
    return path.name == "__init__.py" and "import" not in (ROOT / path).read_text(encoding="utf-8")


def test_every_module_has_its_place():
    assert sorted(ORDER) == sorted(name(path) for path in modules() if not says_nothing(path))


@pytest.mark.parametrize("path", [path for path in modules() if not says_nothing(path)], ids=name)
def test_imports_point_downhill(path):
    above = {
        name(other) for other in imported(path) if other.parts[0] == "nanogpt" and not says_nothing(other)
    } - package_of(path)
    place = ORDER.index(name(path))
    assert {other for other in above if ORDER.index(other) >= place} == set()
    assert not any(other.parts[0] == "stages" for other in imported(path))


def package_of(path: Path) -> set[str]:
    """Importing a package's module runs the package's __init__ first; that is not an arrow of the design."""
    return {f"{path.parent.relative_to('nanogpt').as_posix()}/__init__"}


def spec(stage: str) -> dict:
    return DVC[stage].get("do", DVC[stage])


def test_the_stages_are_those_of_the_contract():
    assert list(DVC) == list(STAGES)
    for stage, script in STAGES.items():
        assert spec(stage)["cmd"].split()[:3] == ["python", "-m", f"stages.{script}"]


@pytest.mark.parametrize("stage", STAGES)
def test_code_deps_are_what_the_stage_imports(stage):
    declared = {dep for dep in spec(stage)["deps"] if dep.endswith(".py")}
    real = {p.as_posix() for p in closure(Path("stages", f"{STAGES[stage]}.py")) if not says_nothing(p)}
    assert declared == real


def test_every_setting_steers_a_stage_besides_check():
    declared = {key for stage in STAGES if stage != "check" for key in spec(stage).get("params", [])}
    for role in ("pretrain", "finetune"):
        declared |= {key.replace("${key}", role) for key in declared}
    for source in get_args(Source):
        declared |= {f"data.{key}" for key in leaves({source: PARAMS["data"][source]})}
    assert set(leaves(PARAMS)) - declared == {"train.checkpoint_every"}  # it changes no result
    assert set(spec("check")["params"]) == set(PARAMS) == set(settings.SECTIONS)


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
