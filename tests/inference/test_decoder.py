import platform

import pytest
import torch
from small_models import every_shape, lively, tiny, tokens

from nanogpt.inference.decoder import Decoder, cache_mib
from nanogpt.inference.products import MIN_INT8_WEIGHTS, pack, supported

# Relative to the logits: bf16 keeps 8 bits of weights and inputs, fp16 11 bits of weights, int8 7 bits of each row.
ERRORS = {"float32": 1e-5, "bfloat16": 0.03, "float16": 0.003, "int8": 0.1}
N_TOKENS = 50  # of the 64 rows of the tiny models' embedding


@pytest.mark.parametrize("dtype", supported())
@every_shape
@torch.no_grad()
def test_logits_are_those_of_full_passes(config, dtype, monkeypatch):
    """Of texts of several lengths, each read in several parts, in slots that were made one after the other."""
    monkeypatch.setattr("nanogpt.inference.products.MIN_INT8_WEIGHTS", 0)
    model = lively(config)
    found = Decoder(model, N_TOKENS, dtype)
    texts = [row.tolist()[:length] for row, length in zip(tokens(config, rows=4), (5, 16, 9, 2), strict=True)]
    for slot, text in enumerate(texts):
        found.reserve(slot + 1)
        known = text[:-1]
        for start, end in ((0, 2), (2, 3), (3, len(known))):
            if known[start:end]:
                found.read(known[start:end], slot, start)
    logits = found.step([text[-1] for text in texts], [len(text) - 1 for text in texts])
    assert logits.shape == (4, 64) and (logits[:, N_TOKENS:] == -torch.inf).all()
    for row, text in zip(logits, texts, strict=True):
        expected = model(torch.tensor([text]))[0, -1, :N_TOKENS]
        assert (row[:N_TOKENS] - expected).norm() < ERRORS[dtype] * expected.norm()


@torch.no_grad()
def test_slots_are_copied_swapped_and_kept():
    config = tiny("optimized")
    model, ids = lively(config), tokens(config, rows=2, length=6).tolist()
    found = Decoder(model, 64)
    found.read(ids[0][:4], 0, 0)
    found.reserve(3)  # what is there stays
    found.copy(0, 2, 4)
    found.read(ids[1][:5], 0, 0)
    found.swap(0, 2, 5)
    expected = [model(torch.tensor([text]))[0, -1] for text in (ids[0][:5], ids[1])]
    logits = found.step([ids[0][4]], [4])
    torch.testing.assert_close(logits[0], expected[0], atol=1e-4, rtol=0)
    found.swap(0, 2, 5)
    torch.testing.assert_close(found.step([ids[1][5]], [5])[0], expected[1], atol=1e-4, rtol=0)


@torch.inference_mode()
def test_what_a_longer_text_left_behind_is_not_seen():
    model = lively(tiny("base"))
    used, fresh = Decoder(model, 64), Decoder(model, 64)
    used.reserve(2)
    used.cache.fill_(1e4)
    fresh.reserve(2)
    for one in (used, fresh):
        one.read([1, 2, 3], 0, 0)
        one.read([5], 1, 0)
    assert torch.equal(used.step([4, 6], [3, 1]), fresh.step([4, 6], [3, 1]))


def test_cache_size_at_the_reference_shape():
    shape = {"n_layer": 5, "n_head": 5, "n_embd": 320, "block_size": 256, "vocab_size": 64, "n_kv_head": 1}
    base, grouped = tiny("base", **shape), tiny("optimized", **shape)
    assert cache_mib(base) * 2**20 == 2 * 5 * 256 * 320 * 4  # keys and values, layers, tokens, width, bytes of fp32
    assert cache_mib(grouped) * 2**20 == 2 * 5 * 256 * 64 * 4
    assert Decoder(lively(grouped), 64).cache.nbytes == cache_mib(grouped) * 2**20


def test_every_format_is_there_on_common_processors():
    """On others, formats that torch has no kernels for are not among the tests here."""
    everything = list(ERRORS) if platform.machine() in ("x86_64", "AMD64") else supported()
    assert supported() == everything and everything[0] == "float32"


@pytest.mark.parametrize("dtype", supported())
@pytest.mark.parametrize("biased", [True, False])
def test_products(dtype, biased):
    torch.manual_seed(0)
    rows = MIN_INT8_WEIGHTS // 64
    weight, bias, x = torch.randn(rows, 64), torch.randn(rows) if biased else None, torch.randn(5, 64)
    x[1] *= 1000  # a row's rounding does not depend on the others
    x[2] = 0
    product = pack(weight, bias, dtype)
    exact = x.double() @ weight.double().t() + (bias.double() if biased else 0)
    step = {"float32": 1e-6, "bfloat16": 2**-8, "float16": 2**-11, "int8": 2**-7}[dtype]
    # each of 64 summands is off by a share of the largest factors, in directions that differ
    bound = 3 * step * 8 * x.double().abs().amax(dim=1, keepdim=True) * weight.abs().amax(dim=1) + 1e-5
    found = product(x)
    assert found.dtype == torch.float32 and ((found - exact).abs() <= bound).all()
    weight.zero_()  # it was copied
    assert torch.equal(product(x), found)
    torch.testing.assert_close(product(x[:1]), found[:1], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", set(supported()) & {"int8"})
def test_small_weights_are_not_rounded(dtype):
    torch.manual_seed(0)
    weight, x = torch.randn(8, 16), torch.randn(2, 16)
    assert torch.equal(pack(weight, None, dtype)(x), pack(weight, None, "float16")(x))
