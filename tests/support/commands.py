"""The commands that README and docs show."""

import re
import shlex
from pathlib import Path

from imports import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def shown(path: Path) -> list[str]:
    """All commands of a page, in blocks and in the line, without comments."""
    text = path.read_text("utf-8").replace("\\\n", " ")
    lines = [line for block in re.findall(r"```\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    flowing = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    inline = [" ".join(found.split()) for found in re.findall(r"`([^`]+)`", flowing)]
    start = re.compile(r"(python|dvc|make|pip|git|torchrun|nanogpt|tensorboard|docker) \S")
    return [" ".join(re.sub(r"\s#.*", "", line).split()) for line in lines + inline if start.match(line)]


def of_scripts(path: Path) -> list[list[str]]:
    """The commands of this project's scripts, as words after `python -m`."""
    return [shlex.split(command)[2:] for command in shown(path) if command.startswith("python -m stages.")]
