"""Read YAML files of settings, with the line of each key for messages."""

from pathlib import Path

from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.scalarbool import ScalarBoolean

from nanogpt.runtime.errors import UserError


def read_yaml(path: Path | str) -> dict:
    """Read a file of YAML 1.2, where 1e-05 is a number as DVC writes it; comments, quotes and line numbers stay.

    Raises UserError for a file that is missing, not YAML or not a mapping.
    """
    path, yaml = Path(path), YAML(typ="rt", pure=True)
    yaml.preserve_quotes = True
    if not path.is_file():
        raise UserError(f"{path} does not exist; run from the project's folder, where params.yaml lies")
    try:
        document = yaml.load(path)
    except (YAMLError, ValueError) as error:  # ValueError: bytes that are not UTF-8, the 31st of February
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or error
        where = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{where}: not valid YAML ({' '.join(str(problem).split())})") from None
    if not isinstance(document, dict):
        raise UserError(f"{path} holds no settings; restore it with `git checkout {path}`")
    return document


def to_plain(value: object) -> object:
    """Return a value of `read_yaml` without ruamel's wrappers, all keys as text."""
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [to_plain(item) for item in value]
    for wrapped, kind in ((ScalarBoolean, bool), (bool, bool), (int, int), (float, float), (str, str)):
        if isinstance(value, wrapped):
            return kind(value)
    return value


def find_value(document: object, key: str) -> object:
    """Return the value of a dotted key, None if there is none."""
    for part in key.split("."):
        document = document.get(part) if isinstance(document, dict) else None
    return document


def describe_line(document: object, key: str) -> str:
    """Return ", line N" for a dotted key, or of the section around a missing one; "" if there is none either."""
    line = None
    for part in key.split("[")[0].split("."):
        if not isinstance(document, dict) or part not in document:
            break
        if part in (document.lc.data or {}):  # not so for keys that come through a merge key, <<
            line = document.lc.key(part)[0] + 1
        document = document[part]
    return f", line {line}" if line else ""
