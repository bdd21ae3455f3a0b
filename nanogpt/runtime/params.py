"""Reads params.yaml into typed sections and checks every key.

Each section is a dataclass that lives beside the code it steers; a stage asks for the sections
it uses. Sections may be nested. Dataclasses carry no defaults: params.yaml is the one place where
a value is written. A dataclass checks its own values in `__post_init__`, raising `BadSetting`.
"""

import dataclasses
import difflib
import os
import types
import typing
from pathlib import Path

from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.scalarbool import ScalarBoolean

from nanogpt.runtime import params_watch
from nanogpt.runtime.errors import BadSetting, UserError
from nanogpt.runtime.ranges import check_value

PATH = Path("params.yaml")


def load(path: os.PathLike | str = PATH, **sections: type) -> types.SimpleNamespace:
    """Read the named top-level sections (`train=TrainSettings, seed=int`) from a params file.

    Returns a namespace with one attribute a section. Raises UserError for a file that is missing
    or not YAML, and for a key that is unknown, missing or of the wrong type.

    A stage that `dvc` runs fails at its end where they have changed meanwhile, see `recorded`.
    """
    values = _load(path, sections)
    if path == PATH:
        params_watch.watch_params()
    return types.SimpleNamespace(**values)


def _load(path: os.PathLike | str, sections: dict[str, type]) -> dict[str, object]:
    document = _read(Path(path))
    try:
        return {name: _convert(_value(document, name, path), kind, name) for name, kind in sections.items()}
    except BadSetting as bad:
        raise UserError(f"{path}{_line_of(document, bad.key)}: {bad}") from None


def load_key(key: str, kind: type, path: os.PathLike | str = PATH) -> object:
    """One value by its dotted key, for a stage that needs no more of another's section. Raises as `load` does."""
    document = _read(Path(path))
    value = document
    for part in key.split("."):
        value = _value(value if isinstance(value, dict) else {}, part, path)
    try:
        return _convert(value, kind, key)
    except BadSetting as bad:
        raise UserError(f"{path}{_line_of(document, bad.key)}: {bad}") from None


def load_all(path: os.PathLike | str = PATH, **sections: type) -> types.SimpleNamespace:
    """Like `load`, and raises UserError for any top-level key that no section owns."""
    document = _read(Path(path))
    for key in document:
        if key not in sections:
            bad = BadSetting(str(key), _unwrapped(document[key]), "unknown section", _suggest(str(key), sections))
            raise UserError(f"{path}{_line_of(document, bad.key)}: {bad}")
    return load(path, **sections)


def _read(path: Path) -> dict:
    if not path.is_file():
        raise UserError(f"{path} does not exist; run from the project's folder, where params.yaml lies")
    try:
        document = YAML(typ="rt", pure=True).load(path)  # YAML 1.2: DVC writes 1e-05, a float there
    except (YAMLError, ValueError) as error:  # ValueError: bytes that are no UTF-8, the 31st of February
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or error
        where = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{where}: not valid YAML ({' '.join(str(problem).split())})") from None
    if not isinstance(document, dict):
        raise UserError(f"{path} holds no settings; take it back with `git checkout {path}`")
    return document


def _value(document: dict, name: str, path: os.PathLike | str) -> object:
    if name not in document:
        raise UserError(f"{path}: the section {name!r} is missing; `git diff {path}` shows what it was")
    return document[name]


def _convert(value: object, kind: type, key: str) -> object:
    if isinstance(value, ScalarBoolean):  # true or false with an anchor, which ruamel makes an int
        value = bool(value)
    if dataclasses.is_dataclass(kind):
        return _section(value, kind, key)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        check_value(key, kind, converted := _convert(value, arguments[0], key))
        return converted
    if origin is typing.Literal:
        if value not in arguments or isinstance(value, bool):
            raise BadSetting(
                key, _unwrapped(value), "not one of the choices", f"choose {' | '.join(map(str, arguments))}"
            )
        return value
    if origin is list:
        if not isinstance(value, list):
            raise BadSetting(key, _unwrapped(value), "not a list", "write it as [one, another]")
        return [_convert(item, arguments[0], f"{key}[{i}]") for i, item in enumerate(value)]
    if origin in (types.UnionType, typing.Union):
        return _one_of(value, arguments, key)
    return _scalar(value, kind, key)


def _section(value: object, kind: type, key: str) -> object:
    fields = typing.get_type_hints(kind)
    if not isinstance(value, dict):
        raise BadSetting(key, _unwrapped(value), "not a section", f"it needs the keys {', '.join(fields)}")
    for name in value:
        if name not in fields:
            raise BadSetting(f"{key}.{name}", _unwrapped(value[name]), "unknown key", _suggest(str(name), fields))
    for name in fields:
        if name not in value:
            raise BadSetting(f"{key}.{name}", None, "this key is missing", "add it; `git diff` shows what it was")
    converted = {name: _convert(value[name], hint, f"{key}.{name}") for name, hint in fields.items()}
    try:
        return kind(**converted)
    except BadSetting as bad:
        raise bad.inside(key) from None


def _one_of(value: object, kinds: tuple[type, ...], key: str) -> object:
    complaints = []
    for kind in kinds:
        try:
            return _convert(value, kind, key)
        except BadSetting as bad:
            complaints.append(bad)
    remedies = " or ".join(dict.fromkeys(bad.remedy for bad in complaints))
    raise BadSetting(key, _unwrapped(value), complaints[0].reason, remedies)


def _scalar(value: object, kind: type, key: str) -> object:
    if kind is types.NoneType:
        if value is None:
            return None
        raise BadSetting(key, _unwrapped(value), "not empty", "write null")
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        if value != value or value in (float("inf"), float("-inf")):
            raise BadSetting(key, float(value), "not a finite number", "write an ordinary number")
        return float(value)
    if kind is bool and isinstance(value, bool):
        return value
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    if kind is str and isinstance(value, str):
        if any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in value):
            raise BadSetting(key, str(value), "it holds what is no character", "write it again")
        return str(value)
    if kind in (int, float) and isinstance(value, str):
        raise BadSetting(key, str(value), "this is text, not a number", "write it without quotes, like 0.0003 or 100")
    wanted = {
        int: ("not a whole number", "write one, like 100"),
        float: ("not a number", "write one, like 0.1"),
        bool: ("not true or false", "write true or false"),
        str: ("not text", "put it in quotes"),
    }
    raise BadSetting(key, _unwrapped(value), *wanted[kind])


def _unwrapped(value: object) -> object:
    """The value without ruamel's wrappers, for messages."""
    if isinstance(value, dict):
        return {str(k): _unwrapped(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_unwrapped(v) for v in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value


def _suggest(name: str, known: typing.Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"


def _line_of(document: object, key: str) -> str:
    """ ", line N" of a dotted key, or nothing where the key is not in the file."""
    line = None
    for part in key.split("[")[0].split("."):
        if not isinstance(document, dict) or part not in document:
            break
        if part in (document.lc.data or {}):  # not so for what comes through a merge key, <<
            line = document.lc.key(part)[0] + 1
        document = document[part]
    return f", line {line}" if line else ""
