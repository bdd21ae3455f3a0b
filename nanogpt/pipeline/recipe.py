"""Recipes: named settings of the whole pipeline, recipes/NAME.yaml, to be written into params.yaml."""

import io
import json
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq

from nanogpt.pipeline.sections import SECTIONS
from nanogpt.runtime import atomic, params
from nanogpt.runtime.errors import BadSetting, UserError
from nanogpt.runtime.yaml_file import read_yaml, to_plain

FOLDER = Path("recipes")


def list_recipes() -> dict[str, str]:
    """The names of all recipes, with the first line of each, which says what it is for."""
    return {
        path.stem: path.read_text("utf-8").split("\n", 1)[0].lstrip("# ")
        for path in sorted(FOLDER.glob("*.yaml"), key=lambda path: path.stem)
    }


def apply_recipe(name: str) -> list[str]:
    """Write a recipe's settings into params.yaml, whose comments and other settings stay; return a line per change.

    Raises UserError, before anything is written, for a recipe that does not exist, a key that params.yaml does not
    have, and a value that the settings refuse.
    """
    path = FOLDER / f"{name}.yaml"
    if name not in list_recipes():
        raise UserError(f"there is no recipe {name!r} in {FOLDER}/; choose one of {', '.join(list_recipes())}")
    document, recipe = read_yaml(params.PATH), read_yaml(path)
    changes = _merge(document, recipe, path)
    try:
        params.convert_document(to_plain(document), SECTIONS)
    except BadSetting as bad:
        raise UserError(f"{path} in {params.PATH}: {bad}; nothing was written") from None
    if changes:
        yaml, text = YAML(typ="rt", pure=True), io.StringIO()
        yaml.width, null = 4096, "tag:yaml.org,2002:null"  # long lines stay, and null is written as a word
        yaml.representer.add_representer(type(None), lambda self, _: self.represent_scalar(null, "null"))
        yaml.dump(document, text)
        atomic.write_text(params.PATH, text.getvalue())
    return changes


def _merge(document: dict, recipe: dict, path: Path, prefix: str = "") -> list[str]:
    """Set the values of a recipe, read from `path`, in a document; return a line for each change."""
    changes = []
    for name, new in recipe.items():
        key = f"{prefix}{name}"
        if not isinstance(document, dict) or name not in document:
            raise UserError(f"{path}: {key} is not a key of {params.PATH}; correct its spelling, or remove it")
        old = document[name]
        if isinstance(new, dict):
            changes += _merge(old, new, path, f"{key}.")
        elif old != new:
            if isinstance(new, list):  # on one line, without the comments that the recipe has beside it
                new = CommentedSeq(new)
                new.fa.set_flow_style()
            document[name] = new
            changes.append(f"{key}: {json.dumps(old)} -> {json.dumps(new)}")
    return changes
