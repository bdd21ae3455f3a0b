"""Checkpoints as other programs write them."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn


class Plain(nn.Module):
    """A GPT of nanoGPT's layout, written anew from its description: linear layers, exact GELU, a tied head."""

    class Block(nn.Module):
        def __init__(self, width: int, heads: int, bias: bool):
            super().__init__()
            self.heads = heads
            self.ln_1, self.ln_2 = nn.LayerNorm(width, bias=bias), nn.LayerNorm(width, bias=bias)
            names = {"c_attn": (width, 3 * width), "c_proj": (width, width)}
            self.attn = nn.ModuleDict({name: nn.Linear(*size, bias=bias) for name, size in names.items()})
            names = {"c_fc": (width, 4 * width), "c_proj": (4 * width, width)}
            self.mlp = nn.ModuleDict({name: nn.Linear(*size, bias=bias) for name, size in names.items()})

        def forward(self, x):
            B, T, C = x.shape
            q, k, v = self.attn.c_attn(self.ln_1(x)).split(C, dim=2)
            q, k, v = (t.view(B, T, self.heads, C // self.heads).transpose(1, 2) for t in (q, k, v))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.attn.c_proj(y.transpose(1, 2).reshape(B, T, C))
            return x + self.mlp.c_proj(nn.GELU()(self.mlp.c_fc(self.ln_2(x))))

    def __init__(self, n_layer, n_head, n_embd, block_size, bias, vocab_size, dropout):
        super().__init__()
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(vocab_size, n_embd),
                "wpe": nn.Embedding(block_size, n_embd),
                "h": nn.ModuleList(self.Block(n_embd, n_head, bias) for _ in range(n_layer)),
                "ln_f": nn.LayerNorm(n_embd, bias=bias),
            }
        )
        self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)
        self.lm_head.weight = self.transformer.wte.weight
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3)

    def forward(self, ids):
        x = self.transformer.wte(ids) + self.transformer.wpe(torch.arange(ids.size(1)))
        for block in self.transformer.h:
            x = block(x)
        return self.lm_head(self.transformer.ln_f(x))


ARGS = {"n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 24, "vocab_size": 320, "dropout": 0.1}


def ids(vocab_size: int = 320, T: int = 24) -> torch.Tensor:
    return torch.randint(vocab_size, (3, T), generator=torch.Generator().manual_seed(1))


def same_logits(ours: nn.Module, theirs: nn.Module) -> None:
    x = ids(ours.config.vocab_size, min(24, ours.config.block_size))
    with torch.no_grad():
        expected = theirs.eval()(x)
        logits = ours(x)
    expected = getattr(expected, "logits", expected)
    assert expected.std() > 0.3
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)


def nanogpt_checkpoint(path: Path, bias: bool, prefix: str = "", masks: bool = False) -> Plain:
    """ckpt.pt as nanoGPT's train.py writes it, with the state of an optimizer that took a step."""
    torch.manual_seed(0)
    model = Plain(**ARGS, bias=bias)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    loss = model(ids()).square().mean()
    loss.backward()
    optimizer.step()
    state = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    if masks:
        for layer in range(2):
            state[f"{prefix}transformer.h.{layer}.attn.bias"] = torch.ones(24, 24).tril().view(1, 1, 24, 24)
    content = {
        "model": state,
        "optimizer": optimizer.state_dict(),
        "model_args": ARGS | {"bias": bias},
        "iter_num": 1,
        "best_val_loss": loss.detach(),
        "config": {"out_dir": "out", "learning_rate": 6e-4, "compile": True},
    }
    torch.save(content, path)
    return model


def gpt2(**changed):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    shape = {"n_layer": 2, "n_head": 4, "n_embd": 32, "n_positions": 24, "vocab_size": 300, "initializer_range": 0.3}
    return GPT2LMHeadModel(GPT2Config(**shape | {"bos_token_id": 0, "eos_token_id": 0} | changed))
