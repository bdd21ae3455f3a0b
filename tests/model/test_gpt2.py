import pytest
import torch
from small_models import lively, tiny, tokens
from transformers import AutoModelForCausalLM, GPT2LMHeadModel

from nanogpt.checkpoint.folder import save_checkpoint
from nanogpt.data.prepare.train_tokenizer import train_tokenizer
from nanogpt.data.tokens.settings import TokenizerSettings
from nanogpt.model.build import build_model, count_parameters

CHAR = train_tokenizer(TokenizerSettings("char", 0, "error"), ["abc"])


def test_parameters_at_the_reference_shape():
    V, C, T, L = 50304, 320, 256, 5
    with torch.device("meta"):
        config = tiny("base", n_layer=L, n_head=5, n_kv_head=1, n_embd=C, block_size=T, vocab_size=V)
        count = count_parameters(build_model(config))
    attention, mlp, norm = 4 * C * C + 4 * C, 8 * C * C + 5 * C, 2 * C
    assert count == 2 * V * C + T * C + L * (attention + mlp + 2 * norm) + norm
    assert 38.35e6 < count < 38.45e6


@pytest.mark.parametrize("tied", [False, True])
@torch.no_grad()
def test_logits_are_those_of_gpt2_in_transformers(tied, tmp_path):
    model = lively(tiny("base", tie_embeddings=tied))
    save_checkpoint(tmp_path / "model", model, CHAR)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    assert type(theirs) is GPT2LMHeadModel
    ids = tokens(model.config, rows=3)
    logits = model(ids)
    assert logits.std() > 0.1
    assert (theirs(ids).logits - logits).abs().max() < 1e-4


@torch.no_grad()
def test_more_tokens_than_positions_are_an_error():
    model = build_model(tiny("base"))
    with pytest.raises(IndexError):
        model(torch.zeros(1, 17, dtype=torch.long))
