"""Check at a stage's end that its settings did not change while it ran, for DVC records them as they are then.

dvc.api.params_show knows the same values, but takes 2 s a call.
"""

import os
import re

from nanogpt.runtime import process
from nanogpt.runtime.errors import UserError
from nanogpt.runtime.yaml_file import find_value, read_yaml


def watch_params() -> None:
    """Let a stage that `dvc` runs fail at its end if the settings that DVC records for it have changed by then."""
    if stage := os.environ.get("DVC_STAGE"):
        before = recorded_values(stage)
        process.add_final_check(lambda: _check_unchanged(before, recorded_values(stage)))


def recorded_values(stage: str) -> dict[str, object]:
    """Return what DVC records of params.yaml for a stage: the value of each key that dvc.yaml lists, None if missing.

    `stage` is DVC's name for it: `prepare@pretrain` is the item `pretrain` of a foreach. ${key}, ${item.…} and ${a key
    of params.yaml} are substituted in dvc.yaml. Raises UserError for a file that is not YAML.
    """
    params, (name, _, item) = read_yaml("params.yaml"), stage.partition("@")
    spec = read_yaml("dvc.yaml")["stages"].get(name, {})
    context = {"key": item, "item": spec.get("foreach", {}).get(item), **params}
    keys = [_substitute(key, context) for key in spec.get("do", spec).get("params", [])]
    return {key: find_value(params, key) for key in keys}


def _check_unchanged(before: dict[str, object], now: dict[str, object]) -> None:
    if changed := [key for key in before if now.get(key) != before[key]]:
        raise UserError(
            f"params.yaml: {', '.join(changed)} changed while this stage ran, and its result is that of the old "
            "settings; restore them, or keep the new ones, and run `dvc repro` again"
        )


def _substitute(text: str, context: dict) -> str:
    while found := re.search(r"\$\{([^}]+)\}", text):
        text = text.replace(found[0], str(find_value(context, found[1])))
    return text
