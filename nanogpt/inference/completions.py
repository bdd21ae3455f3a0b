"""Completes prompts: texts from a model and its tokenizer."""

from collections.abc import Iterator
from pathlib import Path

from torch import nn

from nanogpt.checkpoint.folder import load_checkpoint
from nanogpt.data.tokens.tokenizer import Tokenizer
from nanogpt.inference.decode import generate
from nanogpt.inference.settings import SampleSettings, Sampling
from nanogpt.lora.adapter import open_adapted


def complete(model: nn.Module, tok: Tokenizer, prompt: str, sampling: Sampling, seed: int) -> list[str]:
    """Return `num_samples` texts that begin with a prompt; raises UserError for characters the tokenizer lacks."""
    ids = tok.encode(prompt)
    rows = generate(model, ids, sampling, seed, n_tokens=tok.n_tokens, eot=tok.eot)
    return [tok.decode(ids + row) for row in rows]


def print_samples(
    checkpoint: Path | str | None, adapter: Path | str | None, settings: SampleSettings, seed: int, interactive: bool
) -> None:
    """Print texts of a checkpoint, of an adapter on it, or of an adapter on the base that it names.

    `settings`, `seed` and `interactive` as in `generate_interactive`. Raises UserError for models that cannot be read.
    """
    if adapter:
        adapted, tok = open_adapted(adapter, checkpoint)
        model = adapted.get_base_model()
    else:
        model, tok = load_checkpoint(checkpoint or "models/merged")
    generate_interactive(model, tok, settings, seed, interactive)


def generate_interactive(
    model: nn.Module, tok: Tokenizer, settings: SampleSettings, seed: int, interactive: bool
) -> None:
    """Print texts for the settings' prompts, or for prompts read from the terminal until an empty one."""
    for prompt in _read_prompts() if interactive else settings.prompts:
        for text in complete(model, tok, prompt, settings, seed):
            print(text, end="\n\n", flush=True)


def _read_prompts() -> Iterator[str]:
    try:
        while prompt := input("prompt> "):
            yield prompt
    except EOFError:
        return
