import shutil
from pathlib import Path

import pytest
from imports import ROOT
from ruamel.yaml import YAML

from nanogpt.pipeline.recipe import apply_recipe, list_recipes
from nanogpt.pipeline.sections import SECTIONS
from nanogpt.runtime import params
from nanogpt.runtime.errors import UserError

RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))
OTHER = {"seed", "evaluate", "benchmark", "checkpoint"}  # sections that recipes leave alone
MACHINE = {"dtype", "compile", "threads", "device", "checkpoint_every", "init_from"}  # settings of train, the same
MACHINE |= {"processes", "exchange_dtype", "local_steps", "timeout_s", "sample_every", "tensorboard"}


def flat(value: dict, prefix: str = "") -> dict:
    found = {}
    for key, item in value.items():
        found |= flat(item, f"{prefix}{key}.") if isinstance(item, dict) else {prefix + key: item}
    return found


def read(path: Path | str) -> dict:
    return flat(YAML(typ="safe", pure=True).load(Path(path)))


@pytest.fixture
def project(tmp_path, monkeypatch):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_sets_everything_that_a_recipe_may_set(project, name):
    """So what a recipe gives does not depend on those before it."""
    before, recipe = read("params.yaml"), read(f"recipes/{name}.yaml")
    data = {"data.pretrain", "data.finetune"}
    expected = {
        key for key in before
        if key.split(".")[0] not in OTHER and (not key.startswith("data.") or key.rpartition(".")[0] in data)
    } - {f"train.{key}" for key in MACHINE}  # fmt: skip
    assert recipe.keys() == expected
    changes = apply_recipe(name)
    after = read("params.yaml")
    assert after == before | recipe
    assert len(changes) == sum(before[key] != after[key] for key in before)
    params.load(**SECTIONS)
    assert apply_recipe(name) == []


def test_comments_and_other_lines_stay(project):
    before = Path("params.yaml").read_text().splitlines()
    changes = apply_recipe("scientific")
    assert "train.max_steps: 470 -> 160000" in changes
    after = Path("params.yaml").read_text().splitlines()
    assert [line.partition("#")[2] for line in after] == [line.partition("#")[2] for line in before]
    assert sum(old != new for old, new in zip(before, after, strict=True)) == len(changes)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("n_layer:", "n_layers:", r"recipes/x\.yaml: model\.n_layers is not a key of params\.yaml"),
        ("dropout: 0.0", "dropout: 2.0", r"recipes/x\.yaml in params\.yaml: model\.dropout = 2\.0: .*nothing was"),
        ("n_embd: 320", "n_embd: [", r"recipes/x\.yaml, line \d+: not valid YAML"),
    ],
)
def test_a_wrong_recipe_changes_nothing(project, old, new, message):
    before = Path("params.yaml").read_text()
    text = Path("recipes/scientific.yaml").read_text()
    assert old in text
    Path("recipes/x.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=message) as caught:
        apply_recipe("x")
    assert "\n" not in str(caught.value) and Path("params.yaml").read_text() == before


def test_a_name_that_is_no_recipe(project):
    for name in ("nothing", "../params", "x/y"):
        with pytest.raises(UserError, match="choose one of evening, real-text, "):
            apply_recipe(name)
    assert list(list_recipes()) == RECIPES
