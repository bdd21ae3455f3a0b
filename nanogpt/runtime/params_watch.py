"""What DVC records of params.yaml for a stage: the keys that dvc.yaml lists, as they are when the stage has ended."""

import os
import re
from pathlib import Path

from ruamel.yaml import YAML, YAMLError

from nanogpt.runtime import process
from nanogpt.runtime.errors import UserError


def watch_params() -> None:
    """Have a stage that `dvc` runs fail at its end where its settings are no longer those it began with.

    DVC would take its result for one of the new settings.
    """
    if stage := os.environ.get("DVC_STAGE"):
        before = recorded_values(stage)
        process.add_final_check(lambda: _check_unchanged(before, recorded_values(stage)))


def recorded_values(stage: str) -> dict[str, object]:
    """The value of each key that dvc.yaml lists for a stage, None for what params.yaml lacks.

    `stage` is DVC's name for it: `prepare@pretrain` is of the item `pretrain` of a foreach, and ${key}, ${item.…} and
    ${a key of params.yaml} in dvc.yaml are filled in. Raises UserError where a file is no YAML.
    """
    params, (name, _, key) = _read("params.yaml"), stage.partition("@")
    spec = _read("dvc.yaml")["stages"].get(name, {})
    known = {"key": key, "item": spec.get("foreach", {}).get(key), **params}
    return {
        filled: _look_up(params, filled)
        for filled in (_substitute(key, known) for key in spec.get("do", spec).get("params", []))
    }


def _check_unchanged(before: dict[str, object], now: dict[str, object]) -> None:
    if changed := [key for key in before if now.get(key) != before[key]]:
        raise UserError(
            f"params.yaml: {', '.join(changed)} changed while this stage ran, whose result is that of the settings "
            "before; put them back, or leave them, and run `dvc repro` again"
        )


def _read(name: str) -> dict:
    try:
        return YAML(typ="safe").load(Path(name))
    except (OSError, YAMLError, ValueError):
        raise UserError(f"{name} cannot be read, or is no YAML (any more)") from None


def _substitute(text: str, known: dict) -> str:
    while found := re.search(r"\$\{([^}]+)\}", text):
        text = text.replace(found[0], str(_look_up(known, found[1])))
    return text


def _look_up(document: dict, key: str) -> object:
    value = document
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
