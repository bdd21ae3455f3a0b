"""Recipes: named settings of the whole pipeline, recipes/NAME.yaml, to be written into params.yaml."""

import io
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.comments import CommentedSeq

from nanogpt.pipeline.sections import SECTIONS
from nanogpt.runtime import atomic, params
from nanogpt.runtime.errors import UserError

FOLDER = Path("recipes")


def list_recipes() -> dict[str, str]:
    """The names of all recipes, with the first line of each, which says what it is for."""
    return {path.stem: path.read_text("utf-8").split("\n", 1)[0].lstrip("# ") for path in sorted(FOLDER.glob("*.yaml"))}


def apply_recipe(name: str) -> list[str]:
    """Write a recipe's settings into params.yaml, whose comments and other settings stay; return a line per change.

    Raises UserError, before anything is written, for a recipe that does not exist, a key that params.yaml does not
    have, and a value that the settings refuse.
    """
    path = FOLDER / f"{name}.yaml"
    if name not in list_recipes():
        raise UserError(f"there is no recipe {name!r} in {FOLDER}/; choose one of {', '.join(list_recipes())}")
    document, recipe = _load(params.PATH), _load(path)
    changes = []
    for *sections, last in _leaf_paths(recipe):
        target, source = document, recipe
        for section in sections:
            target, source = target.get(section) if isinstance(target, dict) else None, source[section]
        key = ".".join([*sections, last])
        if not isinstance(target, dict) or last not in target:
            raise UserError(f"{path}: {key} is not a key of {params.PATH}; correct its spelling, or remove it")
        old, new = target[last], source[last]
        if old != new:
            target[last] = _copy(new)
            changes.append(f"{key}: {json.dumps(old)} -> {json.dumps(new)}")
    text = io.StringIO()
    _yaml().dump(document, text)
    _validate(text.getvalue(), path)
    if changes:
        atomic.write_text(params.PATH, text.getvalue())
    return changes


def _load(path: Path) -> dict:
    try:
        document = _yaml().load(path)
    except (OSError, ValueError, YAMLError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise UserError(f"{path} holds no settings; restore it with `git checkout {path}`")
    return document


def _yaml() -> YAML:
    """A reader and writer that keeps comments, quotes, long lines and null, and reads 1e-05 as a number."""
    yaml = YAML(typ="rt", pure=True)
    yaml.width, yaml.preserve_quotes = 4096, True
    yaml.representer.add_representer(
        type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    return yaml


def _leaf_paths(value: dict, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, item in value.items():
        if isinstance(item, dict):
            yield from _leaf_paths(item, (*path, str(key)))
        else:
            yield (*path, str(key))


def _copy(value: object) -> object:
    """A value without the comments that the recipe has beside it, a list on one line."""
    if not isinstance(value, list):
        return value
    copy = CommentedSeq(value)
    copy.fa.set_flow_style()
    return copy


def _validate(text: str, recipe: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "params.yaml")
        path.write_text(text, "utf-8")
        try:
            params.load_all(path, **SECTIONS)
        except UserError as error:
            reason = re.sub(rf"^{re.escape(str(path))}(, line \d+)?: ", "", str(error))
            raise UserError(f"{recipe} in {params.PATH}: {reason}; nothing was written") from None
