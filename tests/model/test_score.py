import json
import math
import statistics

import numpy as np
import pytest
import torch

from nanogpt.data.tokens.batches import Windows
from nanogpt.data.tokens.bins import Bin
from nanogpt.model.score import Score, score_documents, score_domains, score_figures, validate

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
    model = tiny(arch, block_size=block, dropout=0.5).double().train()
    docs = documents(0, 1, block - 1, block, block + 1, 2 * block - 1, 3 * block, 5 * block + 3)
    found = score_documents(model, docs, np.ones(320, np.int64))
    assert found.document_nats == pytest.approx([naive_nats(model, document, block) for document in docs], rel=1e-12)
    assert found.document_tokens.tolist() == [len(document) - 1 for document in docs]
    assert found.nats == pytest.approx(sum(found.document_nats), rel=1e-15)


@pytest.mark.parametrize("arch", ["base", "optimized"])
def test_company_and_padding_do_not_matter(tiny, arch):
    model = tiny(arch).double()
    docs, lengths = documents(0, 3, 9, 16, 17, 40), np.ones(320, np.int64)
    alone = [score_documents(model, [document], lengths).nats for document in docs]
    for batch_tokens in (1, 40, 8192):
        found = score_documents(model, iter(docs), lengths, batch_tokens)
        assert found.document_nats == pytest.approx(alone, rel=1e-12)
    before = score_documents(model, docs, lengths).nats
    with torch.no_grad():  # padding reads token 0, which no document has
        model.get_submodule("transformer.wte" if arch == "base" else "model.embed_tokens").weight[0] = 1e6
    assert score_documents(model, docs, lengths).nats == before


def score_of(nats, n_bytes) -> Score:
    return Score(np.array(nats, float), np.full(len(nats), 4), np.array(n_bytes))


def test_the_figures_of_a_score():
    found = score_of([5 * math.log(2), 3 * math.log(2)], [6, 10])  # eight bits
    assert (found.nats, found.tokens, found.n_bytes) == (pytest.approx(8 * math.log(2)), 8, 16)
    assert found.bpb == pytest.approx(0.5)
    assert found.loss_nats == pytest.approx(math.log(2))
    assert found.perplexity == pytest.approx(2.0)
    assert math.isfinite(score_of([1e9], [1]).perplexity)
    json.dumps([found.nats, found.tokens, found.n_bytes, found.bpb, found.bpb_ci95])  # plain numbers, not numpy's


def sample(seed: int, n: int = 400) -> tuple[Score, Score]:
    """Two models on documents of very different lengths, some of them hard for both: 1.5 and 1.25 bits per byte."""
    random = np.random.default_rng(seed)
    n_bytes = random.lognormal(5, 0.8, n).astype(int) + 1
    bits = n_bytes * 1.5 * random.gamma(20, 1 / 20, n)
    better = bits * random.normal(1.25 / 1.5, 0.03, n)
    return score_of(bits * math.log(2), n_bytes), score_of(better * math.log(2), n_bytes)


def test_the_interval_of_documents_of_one_length():
    """Bits per byte is then a plain mean, and its interval the textbook's."""
    bits = [20, 30, 25, 45, 10]
    found = score_of(np.array(bits) * math.log(2), [50] * 5)
    assert found.bpb_ci95 == pytest.approx(1.959964 * statistics.stdev(bits) / math.sqrt(5) / 50, rel=1e-6)
    assert score_of([3.0], [1]).bpb_ci95 is None


def test_the_interval_is_the_bootstraps():
    """Efron's bootstrap over documents: their ratio drawn anew, without any formula."""
    first, second = sample(0)
    drawn = np.random.default_rng(1).integers(400, size=(10_000, 400))
    n_bytes = first.document_bytes[drawn].sum(1)
    firsts, seconds = (s.document_nats[drawn].sum(1) / n_bytes / math.log(2) for s in (first, second))
    assert first.bpb_ci95 == pytest.approx(1.96 * firsts.std(), rel=0.04)
    change = second.change(first)
    assert change.bpb == pytest.approx(second.bpb - first.bpb)
    assert change.bpb_ci95 == pytest.approx(1.96 * (seconds - firsts).std(), rel=0.04)
    assert change.bpb_ci95 < 0.4 * math.hypot(first.bpb_ci95, second.bpb_ci95)  # paired, so much narrower


def test_a_change_is_between_scores_of_the_same_documents(tiny):
    docs, lengths = documents(9, 30, 40), np.ones(320, np.int64)
    first, second = (score_documents(tiny(seed=seed), docs, lengths) for seed in (0, 1))
    assert first.change(first).bpb == first.change(first).bpb_ci95 == 0
    assert second.change(first).bpb == pytest.approx(second.bpb - first.bpb)
    with pytest.raises(ValueError, match="same documents"):
        score_documents(tiny(), docs[::-1], lengths).change(first)


def test_figures_by_domain():
    before = {"pretrain": score_of([8, 8], [16, 16]), "finetune": score_of([12, 20], [16, 16])}
    after = {"pretrain": score_of([20, 28], [16, 16]), "finetune": score_of([10, 16], [16, 16])}
    assert score_figures(before)["finetune"].keys() == {"bpb", "bpb_ci95", "perplexity"}
    found = score_figures(after, before)["finetune"]
    change = after["finetune"].change(before["finetune"])
    assert (found["bpb_change"], found["bpb_change_ci95"]) == (change.bpb, change.bpb_ci95)
    assert (found["bpb"], found["perplexity"]) == (after["finetune"].bpb, after["finetune"].perplexity)
    assert "bpb_change" not in score_figures(after, {"pretrain": before["pretrain"]})["finetune"]
    one = score_figures({"pretrain": score_of([24], [16])}, {"pretrain": score_of([8], [16])})
    assert one["pretrain"].keys() == {"bpb", "perplexity", "bpb_change"}  # no interval of one document


def test_a_bin_is_scored_document_by_document(tiny, byte, texts, write_bins, tmp_path):
    data = Bin.open(write_bins(tmp_path / "data", byte), "val", byte)
    model = tiny()
    docs = [np.array([byte.eot, *byte.encode(text), byte.eot]) for text in texts[::2]]
    found = score_domains(model, {"pretrain": data}, byte.byte_lengths())["pretrain"]
    assert (found.tokens, found.n_bytes) == (len(data) - 1, data.counts.bytes)
    assert found.nats == pytest.approx(score_documents(model, docs, byte.byte_lengths()).nats, rel=1e-6)


def test_the_loss_of_windows(tiny, byte, write_bins, tmp_path):
    data = Bin.open(write_bins(tmp_path / "data", byte), "val", byte)
    model = tiny(dropout=0.3).double().train()
    found = validate(model, Windows(data, 16, 1), 3, 4)
    assert found == validate(model.train(), Windows(data, 16, 1), 3, 4)
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
    assert validate(model, windows, 10_000, 4) == validate(model, windows, whole, 4)
    assert math.isfinite(validate(model, windows, 1, 10_000))  # fewer windows than a batch


def test_of_a_conversation_the_answer_counts(tiny):
    """By hand: the answer's tokens, each predicted from all before it, even of a document longer than a block."""
    model, lengths = tiny().double(), np.arange(320)
    docs, prompts = documents(5, 9, 30), np.array([3, 8, 20])
    found = score_documents(model, docs, lengths, prompts=prompts)
    whole = score_documents(model, docs, lengths)
    assert (found.document_tokens == whole.document_tokens - prompts).all()
    for i, (document, skipped) in enumerate(zip(docs, prompts, strict=True)):
        assert found.document_bytes[i] == document[1 + skipped :].sum()
        if len(document) <= 17:
            ids = torch.from_numpy(document.astype(np.int64))[None]
            with torch.no_grad():
                logp = model.eval()(ids[:, :-1]).log_softmax(-1).gather(-1, ids[:, 1:, None])[0, :, 0]
            assert found.document_nats[i] == pytest.approx(-logp[skipped:].sum().item(), rel=1e-9)
        else:
            assert 0 < found.document_nats[i] < whole.document_nats[i]
