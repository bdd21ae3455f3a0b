"""Prompts from a file."""

import json
from pathlib import Path

from nanogpt.runtime.errors import UserError


def read_prompts(path: Path | str) -> list[str]:
    """The prompts of a file, one a line, or for .jsonl the field `prompt` of each object; empty lines are left out.

    Raises UserError where the file cannot be read or holds none.
    """
    try:
        lines = [line for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
        prompts = [json.loads(line)["prompt"] for line in lines] if Path(path).suffix == ".jsonl" else lines
    except (OSError, ValueError, LookupError, TypeError) as error:
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise UserError(f"{path}: no prompts can be read from it ({reason}); write one a line, or .jsonl") from None
    if not prompts or not all(isinstance(prompt, str) and prompt for prompt in prompts):
        raise UserError(f"{path} holds no prompt, or one that is no text; write one a line, or .jsonl with `prompt`")
    return prompts
