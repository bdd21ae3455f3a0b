"""Completes prompts: texts from a model and its tokenizer."""

from itertools import takewhile

from torch import nn

from nanogpt.data.tokens.chat import render_prompt
from nanogpt.data.tokens.tokenizer import Tokenizer
from nanogpt.inference.decode import decode
from nanogpt.inference.settings import Sampling


def complete(model: nn.Module, tok: Tokenizer, prompt: str, sampling: Sampling, seed: int) -> list[str]:
    """Return `num_samples` texts that begin with a prompt and end at an end token or after `max_tokens` tokens.

    A model with a chat template (`tok.chat`) answers the prompt; the text is the conversation in that template. Equal
    arguments give equal texts. Raises UserError for characters that the tokenizer lacks.
    """
    ids = tok.encode(render_prompt([{"role": "user", "content": prompt}]) if tok.chat else prompt)
    steps = list(decode(model, ids, sampling, seed, n_tokens=tok.n_tokens, eot=tok.eot))
    rows = (takewhile(lambda token: token != tok.eot, row) for row in zip(*steps, strict=True))
    return [tok.decode([*ids, *row]) for row in rows]
