"""Checkpoints as other programs write them."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn


class Plain(nn.Module):
    """A GPT of nanoGPT's layout, written anew from its description: linear layers, exact GELU, a tied head."""

    def __init__(self, n_layer, n_head, n_embd, block_size, bias, vocab_size, dropout):
        super().__init__()
        self.n_head = n_head

        def linears(**widths: tuple[int, int]) -> nn.ModuleDict:
            return nn.ModuleDict({name: nn.Linear(*size, bias=bias) for name, size in widths.items()})

        def block() -> nn.ModuleDict:
            attn = linears(c_attn=(n_embd, 3 * n_embd), c_proj=(n_embd, n_embd))
            mlp = linears(c_fc=(n_embd, 4 * n_embd), c_proj=(4 * n_embd, n_embd))
            ln_1, ln_2 = nn.LayerNorm(n_embd, bias=bias), nn.LayerNorm(n_embd, bias=bias)
            return nn.ModuleDict({"ln_1": ln_1, "attn": attn, "ln_2": ln_2, "mlp": mlp})

        wte, wpe = nn.Embedding(vocab_size, n_embd), nn.Embedding(block_size, n_embd)
        h, ln_f = nn.ModuleList(block() for _ in range(n_layer)), nn.LayerNorm(n_embd, bias=bias)
        self.transformer = nn.ModuleDict({"wte": wte, "wpe": wpe, "h": h, "ln_f": ln_f})
        self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)
        self.lm_head.weight = wte.weight
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3)

    def forward(self, ids):
        x = self.transformer.wte(ids) + self.transformer.wpe(torch.arange(ids.size(1)))
        for block in self.transformer.h:
            q, k, v = block.attn.c_attn(block.ln_1(x)).unflatten(-1, (3, self.n_head, -1)).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + block.attn.c_proj(y.transpose(1, 2).flatten(2))
            x = x + block.mlp.c_proj(F.gelu(block.mlp.c_fc(block.ln_2(x))))
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
    content = {"model": state, "optimizer": optimizer.state_dict(), "model_args": ARGS | {"bias": bias}}
    settings = {"out_dir": "out", "learning_rate": 6e-4, "compile": True}
    torch.save(content | {"iter_num": 1, "best_val_loss": loss.detach(), "config": settings}, path)
    return model


def gpt2(**changed):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    shape = {"n_layer": 2, "n_head": 4, "n_embd": 32, "n_positions": 24, "vocab_size": 300, "initializer_range": 0.3}
    return GPT2LMHeadModel(GPT2Config(**shape | {"bos_token_id": 0, "eos_token_id": 0} | changed))


WORDS = ["<unk>", "<s>", "</s>", *["the", "a", "cat", "dog", "sat", "on", "mat", "and"]]


FOREIGN = {"vocab_size": len(WORDS), "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.5}


def gpt_neox() -> nn.Module:
    """A model of an architecture that is not ours."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(1)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return GPTNeoXForCausalLM(GPTNeoXConfig(**shape, max_position_embeddings=16, **FOREIGN))


def save_foreign(folder, model, bos="<s>", eos="</s>"):
    """A model with a tokenizer of words, which we cannot read."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", bos_token=bos, eos_token=eos).save_pretrained(
        folder
    )
    model.save_pretrained(folder)
