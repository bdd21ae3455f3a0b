"""Prompts from a file."""

import json
from pathlib import Path

from nanogpt.runtime.errors import UserError


def read_prompts(path: Path | str) -> list[str]:
    """The prompts of a file, one a line, or for .jsonl the field `prompt` of each object; empty lines are left out.

    Raises UserError where the file cannot be read or holds none.
    """
    prompts, place = [], ""
    try:
        # Not `splitlines`, which also cuts at characters that a prompt may hold.
        for number, line in enumerate(Path(path).read_text("utf-8-sig").split("\n"), start=1):
            place = f"line {number}: "
            if line.strip():
                prompts.append(json.loads(line)["prompt"] if Path(path).suffix == ".jsonl" else line)
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or f"{place}{type(error).__name__}: {error}"
        raise UserError(f"{path}: no prompts can be read from it ({reason}); write one a line, or .jsonl") from None
    if not prompts or not all(isinstance(prompt, str) and prompt for prompt in prompts):
        raise UserError(f"{path} holds no prompt, or one that is no text; write one a line, or .jsonl with `prompt`")
    return prompts
