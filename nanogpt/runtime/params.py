"""Read params.yaml into typed sections and check every key.

Each section is a dataclass beside the code it steers, perhaps with others in it, and without defaults: params.yaml is
the one place where a value is written. It checks its values, raising `BadSetting`: by `ranges.Require` beside a type,
or in `__post_init__`. pydantic would replace half of this file, and its errors need as many lines to translate.
"""

import contextlib
import dataclasses
import difflib
import math
import os
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path

from nanogpt.runtime import process
from nanogpt.runtime.errors import BadSetting, UserError
from nanogpt.runtime.ranges import check_value, is_unicode
from nanogpt.runtime.yaml_file import describe_line, find_value, read_yaml, to_plain

PATH = Path("params.yaml")
MISSING = ("this key is missing", "add it; `git diff` shows what it was")
WANTED = {
    int: ("not a whole number", "write one, like 100"),
    float: ("not a number", "write one, like 0.1"),
    bool: ("not true or false", "write true or false"),
    str: ("not text", "put it in quotes"),
    types.NoneType: ("not empty", "write null"),
}


def load(path: os.PathLike | str = PATH, **sections: type) -> types.SimpleNamespace:
    """Read the named top-level sections (`train=TrainSettings, seed=Seed`) from a params file.

    Returns a namespace with one attribute a section. Raises UserError for a file that is missing or not YAML, and for a
    key that is unknown, missing or of the wrong type or value.
    """
    with read_document(path) as document:
        return convert_document({key: document[key] for key in sections if key in document}, sections)


@contextlib.contextmanager
def read_document(path: os.PathLike | str = PATH) -> Iterator[dict]:
    """Yield the file's content in plain Python types; a BadSetting in the block becomes a UserError with its line.

    A stage that `dvc` runs fails at its end if its settings in params.yaml have changed by then.
    """
    document = read_yaml(path)
    if path == PATH:
        _watch_params()
    try:
        yield to_plain(document)
    except BadSetting as bad:
        raise UserError(f"{path}{describe_line(document, bad.key)}: {bad}") from None


def convert_document(document: dict, sections: dict[str, type]) -> types.SimpleNamespace:
    """Return all sections of a params file, given in plain Python types, as their types; raises BadSetting."""
    return types.SimpleNamespace(**_convert_keys(document, sections, ""))


def _convert(value: object, kind: type, key: str) -> object:
    """Return `value` as the type `kind`; raises BadSetting with the dotted `key`."""
    if dataclasses.is_dataclass(kind):
        return _convert_section(value, kind, key)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        check_value(key, kind, converted := _convert(value, arguments[0], key))
        return converted
    if origin is typing.Literal:
        if value not in arguments:
            raise BadSetting(key, value, "not one of the choices", f"choose {' | '.join(map(str, arguments))}")
        return value
    if origin is list:
        if not isinstance(value, list):
            raise BadSetting(key, value, "not a list", "write it as [one, another]")
        return [_convert(item, arguments[0], f"{key}[{i}]") for i, item in enumerate(value)]
    if origin in (types.UnionType, typing.Union):
        return _convert_union(value, arguments, key)
    return _convert_scalar(value, kind, key)


def _convert_section(value: object, kind: type, key: str) -> object:
    fields = typing.get_type_hints(kind)
    if not isinstance(value, dict):
        raise BadSetting(key, value, "not a section", f"it needs the keys {', '.join(fields)}")
    converted = _convert_keys(value, fields, f"{key}.")
    try:
        return kind(**converted)
    except BadSetting as bad:
        raise bad.inside(key) from None


def _convert_keys(values: dict, kinds: dict[str, type], prefix: str) -> dict[str, object]:
    for name in values:
        if name not in kinds:
            close = difflib.get_close_matches(name, kinds, n=1)
            remedy = f"did you mean {close[0]}?" if close else f"known here: {', '.join(kinds)}"
            raise BadSetting(prefix + name, values[name], "unknown key", remedy)
    for name in kinds:
        if name not in values:
            raise BadSetting(prefix + name, None, *MISSING)
    return {name: _convert(values[name], kind, prefix + name) for name, kind in kinds.items()}


def _convert_union(value: object, kinds: tuple[type, ...], key: str) -> object:
    errors = []
    for kind in kinds:
        try:
            return _convert(value, kind, key)
        except BadSetting as bad:
            errors.append(bad)
    raise BadSetting(key, value, errors[0].reason, ", or ".join(dict.fromkeys(bad.remedy for bad in errors)))


def _convert_scalar(value: object, kind: type, key: str) -> object:
    if kind is float and type(value) is int:
        value = float(value)
    if kind in (int, float) and isinstance(value, str):
        raise BadSetting(key, value, "this is text, not a number", "write it without quotes, like 0.0003 or 100")
    if type(value) is not kind:
        raise BadSetting(key, value, *WANTED[kind])
    if kind is float and not math.isfinite(value):
        raise BadSetting(key, value, "not a finite number", "write an ordinary number")
    if kind is str and ("\0" in value or not is_unicode(value)):
        raise BadSetting(key, value, "it holds a code that is not a character", "write it again")
    return value


def _watch_params() -> None:
    """Let a stage that `dvc` runs fail at its end if the settings that DVC records, as they are then, have changed."""

    def check_unchanged() -> None:
        now = recorded_values(stage)
        if changed := ", ".join(key for key in before if now.get(key) != before[key]):
            remedy = "restore the old settings, which its result is of, or keep the new ones, and run `dvc repro` again"
            raise UserError(f"params.yaml: {changed} changed while this stage ran; {remedy}")

    if stage := os.environ.get("DVC_STAGE"):
        before = recorded_values(stage)
        process.add_final_check(check_unchanged)


def recorded_values(stage: str) -> dict[str, object]:
    """Return what DVC records of params.yaml for a stage: the value of each key that dvc.yaml lists, None if missing.

    `stage` is DVC's name for it: `prepare@pretrain` is the item `pretrain` of a foreach. ${key}, ${item.…} and ${a key
    of params.yaml} are substituted in dvc.yaml. dvc.api.params_show gives the same, but takes 2 s. Raises UserError for
    a file that is not YAML.
    """
    params, (name, _, item) = read_yaml("params.yaml"), stage.partition("@")
    spec = read_yaml("dvc.yaml")["stages"].get(name, {})
    context = {"key": item, "item": spec.get("foreach", {}).get(item), **params}
    keys = [_substitute(key, context) for key in spec.get("do", spec).get("params", [])]
    return {key: find_value(params, key) for key in keys}


def _substitute(text: str, context: dict) -> str:
    while found := re.search(r"\$\{([^}]+)\}", text):
        text = text.replace(found[0], str(find_value(context, found[1])))
    return text
