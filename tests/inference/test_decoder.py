import platform
from ctypes import c_int64, c_void_p
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from small_models import every_shape, lively, tiny, tokens

from nanogpt.inference import compiled
from nanogpt.inference.blocks import Activation
from nanogpt.inference.decoder import Decoder, Part, cache_mib
from nanogpt.inference.products import MIN_INT8_WEIGHTS, pack, supported

# Relative to the logits: bf16 keeps 8 bits of weights and inputs, fp16 11 bits of weights, int8 7 bits of each row.
ERRORS = {"float32": 1e-5, "bfloat16": 0.03, "float16": 0.003, "int8": 0.1}
N_TOKENS = 50  # of the 64 rows of the tiny models' embedding


each_dtype = pytest.mark.parametrize("dtype", ERRORS)


@pytest.fixture(params=["compiled", "AVX2", "torch"])
def code(request, monkeypatch):
    """What decodes: compiled code for this processor or for older ones, or torch's operations where that cannot be."""
    if request.param == "torch":
        monkeypatch.setattr("nanogpt.inference.products.compiles", lambda dtype: False)
    elif not compiled.library():
        pytest.skip("no compiled code without AVX2 and g++")
    elif request.param == "AVX2":
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
        compiled.library.cache_clear()
    yield
    compiled.library.cache_clear()


def skip_unless_supported(dtype):
    if dtype not in supported():
        pytest.skip(f"there are no kernels for {dtype} on this processor")


@each_dtype
@every_shape
@torch.no_grad()
@pytest.mark.parametrize("together", [256, 3, 1])
def test_logits_are_those_of_full_passes(config, dtype, together, code, monkeypatch):
    """Of texts of several lengths, each read in several parts, in slots that were made one after the other.

    `together`: parts of more tokens are read apart from the others.
    """
    skip_unless_supported(dtype)
    monkeypatch.setattr("nanogpt.inference.products.MIN_INT8_WEIGHTS", 0)
    monkeypatch.setattr("nanogpt.inference.decoder.TOGETHER", together)
    model = lively(config)
    found = Decoder(model, N_TOKENS, dtype)
    texts = [row.tolist()[:length] for row, length in zip(tokens(config, rows=4), (5, 16, 9, 2), strict=True)]
    for slots, start, end in ((2, 0, 2), (4, 0, 2), (4, 2, 3), (4, 3, 15)):
        found.reserve(slots)
        found.read([Part(text[:-1][start:end], slot, start) for slot, text in enumerate(texts[:slots])])
    logits = found.step([text[-1] for text in texts], [len(text) - 1 for text in texts])
    assert logits.shape == (4, 64) and (logits[:, N_TOKENS:] == -torch.inf).all()
    for row, text in zip(logits, texts, strict=True):
        expected = model(torch.tensor([text]))[0, -1, :N_TOKENS]
        assert (row[:N_TOKENS] - expected).norm() < ERRORS[dtype] * expected.norm()


@torch.no_grad()
def test_slots_are_copied_swapped_and_kept(code):
    config = tiny("optimized")
    model, ids = lively(config), tokens(config, rows=2, length=6).tolist()
    found = Decoder(model, 64)
    found.read([Part(ids[0][:4], 0, 0)])
    found.reserve(3)  # what is there stays
    found.copy(0, 2, 4)
    found.read([Part(ids[1][:5], 0, 0)])
    found.swap(0, 2, 5)
    expected = [model(torch.tensor([text]))[0, -1] for text in (ids[0][:5], ids[1])]
    logits = found.step([ids[0][4]], [4])
    torch.testing.assert_close(logits[0], expected[0], atol=1e-4, rtol=0)
    found.swap(0, 2, 5)
    torch.testing.assert_close(found.step([ids[1][5]], [5])[0], expected[1], atol=1e-4, rtol=0)


@torch.inference_mode()
def test_what_a_longer_text_left_behind_is_not_seen(code):
    model = lively(tiny("base"))
    used, fresh = Decoder(model, 64), Decoder(model, 64)
    used.reserve(2)
    used.cache.fill_(1e4)
    fresh.reserve(2)
    for one in (used, fresh):
        one.read([Part([1, 2, 3], 0, 0)])
        one.read([Part([5], 1, 0)])
    assert torch.equal(used.step([4, 6], [3, 1]), fresh.step([4, 6], [3, 1]))


def test_cache_size_at_the_reference_shape():
    shape = {"n_layer": 5, "n_head": 5, "n_embd": 320, "block_size": 256, "vocab_size": 64, "n_kv_head": 1}
    base, grouped = tiny("base", **shape), tiny("optimized", **shape)
    assert cache_mib(base) * 2**20 == 2 * 5 * 256 * 320 * 4  # keys and values, layers, tokens, width, bytes of fp32
    assert cache_mib(grouped) * 2**20 == 2 * 5 * 256 * 64 * 4
    assert Decoder(lively(grouped), 64).cache.nbytes == cache_mib(grouped) * 2**20


def test_every_format_is_there_on_common_processors(code):
    """On others, formats that torch has no kernels for are not among the tests here."""
    everything = list(ERRORS) if platform.machine() in ("x86_64", "AMD64") else supported()
    assert supported() == everything and everything[0] == "float32"


@each_dtype
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("inputs", [64, 30])
def test_products(dtype, biased, inputs, code):
    skip_unless_supported(dtype)
    torch.manual_seed(0)
    rows = MIN_INT8_WEIGHTS // inputs + 1
    weight, bias, x = torch.randn(rows, inputs), torch.randn(rows) if biased else None, torch.randn(5, inputs)
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


def test_torch_does_not_round_small_weights(monkeypatch):
    monkeypatch.setattr("nanogpt.inference.products.compiles", lambda dtype: False)
    skip_unless_supported("int8")
    torch.manual_seed(0)
    weight, x = torch.randn(8, 16), torch.randn(2, 16)
    assert torch.equal(pack(weight, None, "int8")(x), pack(weight, None, "float16")(x))


needs_compiled = pytest.mark.skipif("not compiled.library()", reason="no compiled code without AVX2 and g++")


def skip_unless_compiled(dtype):
    if not compiled.compiles(dtype):
        pytest.skip("no compiled code for int8 without AVX512-VNNI")


@needs_compiled
@each_dtype
def test_compiled_rows_do_not_depend_on_each_other(dtype):
    """To the bit, in any number of them."""
    skip_unless_compiled(dtype)
    torch.manual_seed(0)
    product, x = pack(torch.randn(100, 24), torch.randn(100), dtype), torch.randn(13, 24)
    for first in range(13):
        assert torch.equal(product(x[first:]), torch.cat([product(row[None]) for row in x[first:]]))


@needs_compiled
def test_compiled_activations():
    x, gate = torch.linspace(-100, 100, 20001), torch.linspace(1, 2, 20001)
    exact = {
        "swiglu": F.silu(x.double()) * gate.double(),
        "gelu": F.gelu(x.double()),
        "gelu_tanh": F.gelu(x.double(), approximate="tanh"),
    }
    assert tuple(exact) == get_args(Activation)
    for number, expected in enumerate(exact.values()):
        hidden = torch.cat([x, gate])
        compiled.library().activate(c_int64(number), c_int64(len(x)), c_void_p(hidden.data_ptr()))
        torch.testing.assert_close(hidden[: len(x)].double(), expected, rtol=3e-7, atol=3e-7)


@needs_compiled
@each_dtype
def test_compiled_products_keep_what_is_not_finite(dtype):
    skip_unless_compiled(dtype)
    product, x = pack(torch.ones(8, 6), None, dtype), torch.ones(3, 6)
    x[0, 2], x[2, 5] = torch.nan, torch.inf
    assert product(x).isfinite().tolist() == [[False] * 8, [True] * 8, [False] * 8]


@needs_compiled
def test_compiled_code_reads_nothing_beyond_its_arrays():
    found = Decoder(lively(tiny("base")), 50)
    for ids, positions in (([64], [0]), ([-1], [0]), ([1], [16]), ([1], [-1]), ([1, 1], [0, 0])):
        with pytest.raises(IndexError):
            found.step(ids, positions)


@needs_compiled
def test_without_a_compiler_that_works(monkeypatch, tmp_path, capsys):
    """Texts are written all the same: with a note of what the compiler said, and none where there is no compiler."""
    monkeypatch.setenv("NANOGPT_COMPILED", str(tmp_path / "made"))
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\necho no room >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", "none")
    assert compiled.library.__wrapped__() is None
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("CXX", str(compiler))
    assert compiled.library.__wrapped__() is None
    assert "without compiled code: no room; name another compiler in CXX" in capsys.readouterr().err
    assert list((tmp_path / "made").iterdir()) == []  # nothing half-written
    monkeypatch.delenv("CXX")
    assert compiled.library.__wrapped__() is not None
    assert [file.suffix for file in (tmp_path / "made").iterdir()] == [".so"]
