import math

import numpy as np
import pytest
import torch

from nanogpt.evaluate import Score, bits_per_byte, score, score_bin, window_loss
from nanogpt.tokens import Bin, Windows

EOT = 256


def documents(*lengths: int) -> list[np.ndarray]:
    """Documents of so many tokens between their end tokens, without token 0."""
    random = np.random.default_rng(0)
    return [np.array([EOT, *random.integers(1, 256, n), EOT], np.uint16) for n in lengths]


def start_of(i: int, block: int) -> int:
    """First input that target `i` of a document is predicted from: windows follow each other by half a block."""
    stride = block - block // 2
    return 0 if i < block else ((i - block) // stride + 1) * stride


@torch.no_grad()
def naive_nats(model, document: np.ndarray, block: int) -> float:
    """One token at a time, each with its own forward pass."""
    nats, ids = 0.0, torch.from_numpy(document.astype(np.int64))
    for i in range(len(document) - 1):
        start = start_of(i, block)
        assert i < block or i - start + 1 > block // 2  # the promise: at least half a block
        assert i - start < block
        logits = model(ids[None, start : i + 1])[0, -1]
        nats -= (logits[ids[i + 1]] - logits.exp().sum().log()).item()
    return nats


@pytest.mark.parametrize(("arch", "block"), [("base", 16), ("optimized", 16), ("base", 7), ("base", 1)])
def test_the_score_is_a_naive_one(tiny, arch, block):
    model = tiny(arch, block_size=block).double().eval()
    docs = documents(0, 1, block - 1, block, block + 1, 2 * block - 1, 3 * block, 5 * block + 3)
    found = score(model, docs, np.ones(320, np.int64))
    assert found.tokens == sum(len(document) - 1 for document in docs)
    assert found.nats == pytest.approx(sum(naive_nats(model, document, block) for document in docs), rel=1e-12)


@pytest.mark.parametrize("arch", ["base", "optimized"])
def test_company_and_padding_do_not_matter(tiny, arch):
    model = tiny(arch).double()
    docs, lengths = documents(0, 3, 9, 16, 17, 40), np.ones(320, np.int64)
    alone = [score(model, [document], lengths).nats for document in docs]
    for batch_tokens in (1, 40, 8192):
        assert score(model, docs, lengths, batch_tokens).nats == pytest.approx(sum(alone), rel=1e-12)
    before = score(model, docs, lengths).nats
    with torch.no_grad():  # padding reads token 0, which no document has
        model.get_submodule("transformer.wte" if arch == "base" else "model.embed_tokens").weight[0] = 1e6
    assert score(model, docs, lengths).nats == before


def test_bytes_are_those_of_the_texts(tiny, byte, char, texts):
    for tok in (byte, char):
        model = tiny(vocab_size=tok.vocab_size)
        docs = [np.array([tok.eot, *tok.encode(text), tok.eot]) for text in texts]
        assert score(model, docs, tok.byte_lengths()).n_bytes == sum(len(text.encode()) for text in texts)


@pytest.mark.parametrize("arch", ["base", "optimized"])
def test_a_model_that_knows_nothing(tiny, arch):
    model = tiny(arch)
    torch.nn.init.zeros_(model.lm_head.weight)
    found = score(model, documents(5, 50), np.ones(320, np.int64))
    assert found.tokens == 6 + 51
    assert found.loss_nats == pytest.approx(math.log(320), rel=1e-6)
    assert found.perplexity == pytest.approx(320, rel=1e-5)
    assert score(model.double(), documents(5, 50), np.ones(320, np.int64)).loss_nats == pytest.approx(
        math.log(320), rel=1e-15
    )


def test_the_figures_of_a_score():
    found = Score(nats=8 * math.log(2), tokens=4, n_bytes=16)  # eight bits
    assert found.bpb == pytest.approx(0.5)
    assert found.loss_nats == pytest.approx(2 * math.log(2))
    assert found.perplexity == pytest.approx(4.0)
    assert bits_per_byte(24.0, 16) == 1.5
    assert math.isfinite(Score(1e9, 1, 1).perplexity)


def test_scoring_neither_trains_nor_drops(tiny):
    model = tiny(dropout=0.5).train()
    docs, lengths = documents(30), np.ones(320, np.int64)
    assert score(model, docs, lengths) == score(model, docs, lengths)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_bin_is_scored_document_by_document(tiny, byte, texts, write_bins, tmp_path):
    data = Bin.open(write_bins(tmp_path / "data", byte), "val", byte)
    model = tiny()
    docs = [np.array([byte.eot, *byte.encode(text), byte.eot]) for text in texts[::2]]
    found = score_bin(model, data, byte.byte_lengths(), "float32")
    assert (found.tokens, found.n_bytes) == (len(data) - 1, data.counts.bytes)
    assert found.nats == pytest.approx(score(model, docs, byte.byte_lengths()).nats, rel=1e-6)
    rounded = score_bin(model, data, byte.byte_lengths(), "bfloat16")
    assert rounded.nats != found.nats
    assert rounded.nats == pytest.approx(found.nats, rel=1e-2)


def test_the_loss_of_windows(tiny, byte, write_bins, tmp_path):
    data = Bin.open(write_bins(tmp_path / "data", byte), "val", byte)
    model = tiny(dropout=0.3).double().train()
    found = window_loss(model, Windows(data, 16, 1), 3, 4)
    assert found == window_loss(model.train(), Windows(data, 16, 1), 3, 4)
    batches = [Windows(data, 16, 1).batch(i, 4) for i in range(3)]
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    with torch.no_grad():
        logp = model.eval()(x).log_softmax(-1)
    assert found == pytest.approx(-logp.gather(-1, y[..., None]).mean().item(), rel=1e-12)


def test_the_loss_of_windows_reads_no_window_twice(tiny, byte, write_bins, tmp_path):
    windows = Windows(Bin.open(write_bins(tmp_path / "data", byte), "val", byte), 16, 1)
    whole = windows.per_epoch // 4
    assert whole > 1
    model = tiny()
    assert window_loss(model, windows, 10_000, 4) == window_loss(model, windows, whole, 4)
    assert math.isfinite(window_loss(model, windows, 1, 10_000))  # fewer windows than a batch
