"""Finds and describes the adapters of a project: those in models/ and out/."""

import re
from pathlib import Path

from nanogpt.checkpoint.folder import read_card
from nanogpt.lora.adapter_file import CONFIG, read_adapter
from nanogpt.runtime.errors import UserError

PLACES = ("models", "out")
FACTS = {"trained on": "trained on", "bits per byte": "validation, bits per byte"}  # of the model card


def find_adapter(name: str) -> str:
    """Return the path of an adapter that is named by its path, or by its folder's name in one of PLACES.

    A path where something is, is returned as it is. Raises UserError where there is no such adapter, or several.
    """
    if Path(name).exists() or "/" in name:
        return name
    paths = adapter_paths()
    found = [str(path) for path in paths if path.name == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"{name} is the name of {len(found)} adapters; choose one of {', '.join(found)}")
    there = ", ".join(map(str, paths)) or f"none in {' and '.join(PLACES)}"
    raise UserError(f"there is no adapter {name}; the adapters are: {there}")


def adapter_paths() -> list[Path]:
    """The folders of all adapters in PLACES, sorted."""
    return sorted(file.parent for place in PLACES for file in Path(place).glob(f"**/{CONFIG}"))


def describe_adapters() -> list[dict[str, str]]:
    """Say of each adapter in PLACES which model it belongs to, its kind, what it learned, and how well.

    The last two are from its model card, "" where that does not say. Raises UserError for a damaged adapter.
    """
    rows = []
    for path in adapter_paths():
        found, card = read_adapter(path), read_card(path) or ""
        kind = "dora" if found.lora["use_dora"] else "rslora" if found.lora["use_rslora"] else "lora"
        row = {"adapter": str(path), "of": found.origin, "kind": f"{kind}, rank {found.lora['r']}"}
        for name, fact in FACTS.items():
            match = re.search(rf"^\| {fact} \| (.*) \|$", card, re.MULTILINE)
            row[name] = match[1] if match else ""
        rows.append(row)
    return rows
