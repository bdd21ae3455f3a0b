"""Prints texts of one model, with an adapter on it or without."""

import contextlib
from pathlib import Path

from nanogpt.checkpoint.folder import load_checkpoint
from nanogpt.inference.completions import complete
from nanogpt.inference.settings import SampleSettings
from nanogpt.lora.adapter import open_finetuned


def print_samples(
    checkpoint: Path | str | None, adapter: Path | str | None, settings: SampleSettings, seed: int, interactive: bool
) -> None:
    """Print texts of a checkpoint, of an adapter on it, or of an adapter on the base that it names.

    `interactive` reads prompts from the terminal until an empty one. Raises UserError for models that cannot be read.
    """
    if adapter:
        model, tok = open_finetuned(adapter, checkpoint)
    else:
        model, tok = load_checkpoint(checkpoint or "models/merged")
    prompts = iter(lambda: input("prompt> "), "") if interactive else settings.prompts
    with contextlib.suppress(EOFError):
        for prompt in prompts:
            for text in complete(model, tok, prompt, settings, seed):
                print(text, end="\n\n", flush=True)
