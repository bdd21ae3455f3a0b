"""Both architectures against transformers' models and against counts made by hand."""

import pytest
import torch
from small_models import SHAPES, every_shape, lively, tiny, tokens
from transformers import AutoModelForCausalLM

from nanogpt.checkpoint.folder import save_checkpoint
from nanogpt.data.prepare.train_tokenizer import train_tokenizer
from nanogpt.data.tokens.settings import TokenizerSettings
from nanogpt.model import attention
from nanogpt.model.build import build_model, count_parameters
from nanogpt.model.llama import apply_rope, mlp_width, rope_cos_sin

CHAR = train_tokenizer(TokenizerSettings("char", 0, "error"), ["abc"])


def test_parameters_at_the_reference_shape():
    V, C, T, L, D, W = 50304, 320, 256, 5, 64, 832
    shape = {"n_layer": L, "n_head": 5, "n_kv_head": 1, "n_embd": C, "block_size": T, "vocab_size": V}
    with torch.device("meta"):
        base, optimized = (count_parameters(build_model(tiny(arch, **shape))) for arch in ("base", "optimized"))
    attention, mlp, norm = 4 * C * C + 4 * C, 8 * C * C + 5 * C, 2 * C
    assert base == 2 * V * C + T * C + L * (attention + mlp + 2 * norm) + norm
    attention, mlp, norm = 2 * C * C + 2 * C * D, 3 * C * W, C
    assert optimized == 2 * V * C + L * (attention + mlp + 2 * norm) + norm
    assert 38.35e6 < base < 38.45e6 and 0.95 * base < optimized < base


@pytest.mark.parametrize("n_embd", [32, 192, 320, 768])
def test_mlp_weighs_what_gpt2s_does_at_most(n_embd):
    width = mlp_width(tiny("optimized", n_embd=n_embd))
    assert width % 64 == 0
    if n_embd >= 192:
        assert 3 * width <= 8 * n_embd < 3 * (width + 64)


@every_shape
@torch.no_grad()
def test_logits_are_those_of_transformers(config, tmp_path):
    model = lively(config)
    save_checkpoint(tmp_path / "model", model, CHAR)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    name = "GPT2LMHeadModel" if config.arch == "base" else "Qwen3ForCausalLM" if config.qk_norm else "LlamaForCausalLM"
    assert type(theirs).__name__ == name
    ids = tokens(config, rows=3)
    logits = model(ids)
    assert logits.std() > 0.1
    assert (theirs(ids).logits - logits).abs().max() < 1e-4


@torch.no_grad()
def test_more_tokens_than_positions_are_an_error():
    with pytest.raises(IndexError):
        lively(SHAPES["base"])(torch.zeros(1, 17, dtype=torch.long))


def test_rotation_turns_pairs_as_complex_numbers():
    torch.manual_seed(0)
    x = torch.randn(1, 1, 5, 8)
    turned = apply_rope(x, *(part[3:] for part in rope_cos_sin(8, 8, x.device)))
    pairs = torch.complex(x[..., :4].double(), x[..., 4:].double())
    angles = torch.arange(3, 8).double()[:, None] * 10_000.0 ** (-torch.arange(4).double() / 4)
    expected = pairs * torch.polar(torch.ones_like(angles), angles)
    torch.testing.assert_close(turned.double(), torch.cat([expected.real, expected.imag], -1), atol=1e-5, rtol=0)


def test_rotation_stays_exact_in_half_precision():
    """Far positions have angles that bfloat16 cannot tell apart, so they are never stored in it."""
    assert not list(build_model(tiny("optimized")).named_buffers())
    cos, sin = rope_cos_sin(1002, 8, torch.device("cpu"))
    assert cos.dtype == sin.dtype == torch.float32
    assert cos[1001, 0].item() == pytest.approx(torch.tensor(1001.0, dtype=torch.float64).cos().item(), abs=1e-4)


@pytest.mark.parametrize("kernel", ["products", "torch"])
@every_shape
@torch.no_grad()
def test_documents_of_a_row_are_kept_apart(config, kernel, monkeypatch):
    """Each is read as if it were alone, at any place of the row."""
    monkeypatch.setattr(attention, "MATMUL_UP_TO", 512 if kernel == "products" else 0)
    model, end = lively(config).double().eval(), 1
    documents = [torch.tensor([end, *ids]) for ids in ([4, 5, 6], [], [7, 8], [2, 3, 2, 9])]
    alone = torch.cat([model(document[None])[0] for document in documents])
    row = torch.cat(documents)[None]
    assert (model(row)[0] - alone).abs().max() > 1e-3
    model.document_start = end
    torch.testing.assert_close(model(row)[0], alone, rtol=0, atol=1e-5)  # rotations are in fp32
    rows = torch.cat([row, row.roll(3, 1)])  # in the second the last document goes on from the row before
    torch.testing.assert_close(model(rows)[1, 3:6], alone[:3], rtol=0, atol=1e-5)  # rotations are in fp32
