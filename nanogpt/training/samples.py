"""Texts that a model writes while it is trained, to watch what it learns."""

import torch
from torch import nn

from nanogpt.data.tokens.bins import Bin
from nanogpt.data.tokens.tokenizer import Tokenizer

PROMPT_TOKENS, SAMPLE_TOKENS, TEMPERATURE = 8, 64, 0.8


@torch.no_grad()
def write_sample(model: nn.Module, data: Bin, tokenizer: Tokenizer, seed: int) -> tuple[str, str]:
    """The start of the first document of `data`, or the prompt of the first conversation, and what `model` adds.

    It adds SAMPLE_TOKENS tokens, or fewer where it ends the document or its logits are not finite. The random numbers
    are a function of `seed` and no other generator moves. No keys and values are kept: one text in many steps is short.
    """
    model.eval()
    device = next(model.parameters()).device
    prompt = next(data.documents())[:-1].tolist()[: 1 + (PROMPT_TOKENS if data.prompts is None else data.prompts[0])]
    ids, generator = list(prompt), torch.Generator().manual_seed(seed)
    while len(ids) < len(prompt) + SAMPLE_TOKENS and ids[len(prompt) :][-1:] != [data.eot]:
        window = torch.tensor([ids[-model.config.block_size :]], device=device)
        logits = model.lm_head(model.hidden(window)[:, -1])[0, : data.eot + 1].float().cpu()  # without padding rows
        if not logits.isfinite().all():
            break
        ids.append(int(torch.multinomial((logits / TEMPERATURE).softmax(0), 1, generator=generator)))
    return tokenizer.decode(prompt), tokenizer.decode(ids[len(prompt) :])
