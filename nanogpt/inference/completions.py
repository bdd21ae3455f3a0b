"""Texts that go on from prompts."""

from collections.abc import Iterator

from torch import nn

from nanogpt.data.tokens.tokenizer import Tokenizer
from nanogpt.inference.decode import generate
from nanogpt.inference.settings import SampleSettings


def complete(model: nn.Module, tok: Tokenizer, prompt: str, settings: SampleSettings, seed: int) -> list[str]:
    """`num_samples` texts that begin with a prompt. Raises UserError for characters that the tokenizer lacks."""
    ids = tok.encode(prompt)
    rows = generate(
        model, ids, num_samples=settings.num_samples, max_tokens=settings.max_tokens,
        temperature=settings.temperature, top_k=settings.top_k, top_p=settings.top_p, seed=seed,
        n_tokens=tok.n_tokens, eot=tok.eot,
    )  # fmt: skip
    return [tok.decode(ids + row) for row in rows]


def generate_interactive(
    model: nn.Module, tok: Tokenizer, settings: SampleSettings, seed: int, interactive: bool
) -> None:
    """Print texts for the settings' prompts, or for prompts read from the terminal until an empty one."""
    for prompt in _read_prompts() if interactive else settings.prompts:
        for text in complete(model, tok, prompt, settings, seed):
            print(text, end="\n\n", flush=True)


def _read_prompts() -> Iterator[str]:
    while True:
        try:
            prompt = input("prompt> ")
        except EOFError:
            return
        if not prompt:
            return
        yield prompt
