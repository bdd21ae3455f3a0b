import itertools
import math

import pytest
import torch
from small_models import each_arch, lively, tiny
from torch import nn
from transformers import AutoModelForCausalLM

from nanogpt.checkpoint.folder import save_checkpoint
from nanogpt.data.prepare.train_tokenizer import train_tokenizer
from nanogpt.data.tokens.settings import TokenizerSettings
from nanogpt.inference.decode import decode
from nanogpt.inference.sampling import filter_logits
from nanogpt.inference.settings import Sampling

EOT, N_TOKENS = 49, 50  # of the 64 rows of the tiny models' embedding
PROMPT = [3, 1, 4, 1, 5]


def written(
    model: nn.Module, prompt: list[int] = PROMPT, seed: int = 1, n_tokens: int = N_TOKENS, eot: int = EOT, **changes
) -> list[list[int]]:
    """The rows of `decode` up to their end tokens, with settings that leave much to chance."""
    settings = {"num_samples": 2, "max_tokens": 12, "temperature": 1.0, "top_k": None, "top_p": None}
    steps = decode(model, prompt, Sampling(**settings | changes), seed, n_tokens=n_tokens, eot=eot)
    rows = zip(*steps, strict=True)
    return [list(itertools.takewhile(lambda token: token != eot, row)) for row in rows]


def within(block_size: int, context: list[int]) -> list[int]:
    """The rule: a context longer than the block is cut to its last half block, read from position 0."""
    return context if len(context) <= block_size else context[-max(1, block_size // 2) :]


class Scripted(nn.Module):
    """Stands in for a model: gives the logits of a script, (steps, rows or 1, V), whatever it reads."""

    def __init__(self, script: torch.Tensor):
        super().__init__()
        self.config, self.script, self.steps = tiny("base"), script, 0
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, ids: torch.Tensor, cache, last: bool) -> torch.Tensor:
        cache.length += ids.size(1)
        logits = self.script[min(self.steps, len(self.script) - 1)]
        self.steps += 1
        return logits.expand(len(ids), -1)[:, None].clone()


@each_arch
def test_greedy_text_is_that_of_transformers(arch, tmp_path):
    tok = train_tokenizer(TokenizerSettings("char", 0, "error"), [chr(i) for i in range(40, 103)])
    assert tok.n_tokens == tok.vocab_size == 64
    lengths = []
    for seed in range(5):
        model = lively(tiny(arch, block_size=32), seed)
        save_checkpoint(tmp_path / str(seed), model, tok)
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / str(seed))
        ids = torch.tensor([[tok.eot, *PROMPT]])
        text = theirs.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=20)[0, 6:]
        text = list(itertools.takewhile(lambda token: token != tok.eot, text.tolist()))
        assert written(model, temperature=0, max_tokens=20, n_tokens=64, eot=tok.eot) == [text] * 2
        lengths.append(len(text))
    assert max(lengths) == 20


@pytest.mark.parametrize("prompt", [[], list(range(14)), list(range(15)), list(range(40))], ids=len)
@pytest.mark.parametrize("block_size", [1, 2, 7, 16])
@each_arch
@torch.no_grad()
def test_greedy_text_is_that_of_plain_full_passes(arch, block_size, prompt):
    """Before the block is full, when it overflows (several times), and where the prompt alone is too long."""
    model = lively(tiny(arch, block_size=block_size))
    (text,) = written(model, prompt, num_samples=1, temperature=0, max_tokens=40, n_tokens=EOT)  # no end token
    context, expected = [EOT, *prompt], []
    while len(expected) < 40:
        context = within(block_size, context)
        expected.append(model(torch.tensor([context]))[0, -1, :EOT].argmax().item())
        context = [*context, expected[-1]]
    assert text == expected


@each_arch
@torch.no_grad()
def test_logits_of_sampled_text_are_those_of_plain_full_passes(arch):
    model, seen = lively(tiny(arch)), []
    hook = model.register_forward_hook(lambda module, given, logits: seen.append(logits[:, -1].clone()))
    rows = written(model, num_samples=3, max_tokens=50, n_tokens=EOT)  # no end token to be drawn
    hook.remove()
    assert [len(row) for row in rows] == [50] * 3
    assert len({tuple(row) for row in rows}) == 3
    for row, text in enumerate(rows):
        context = [EOT, *PROMPT]
        for step, token in enumerate(text):
            context = within(16, context)
            torch.testing.assert_close(seen[step][row], model(torch.tensor([context]))[0, -1], atol=1e-4, rtol=0)
            context = [*context, token]


def test_a_row_depends_on_the_seed_and_its_number_alone():
    model = lively(tiny("base"))
    five = written(model, num_samples=5, max_tokens=30)
    assert len({tuple(row) for row in five}) == 5
    torch.rand(3)
    assert all(written(model, num_samples=n, max_tokens=30) == five[:n] for n in (1, 2, 5))
    others = [written(model, seed=seed) for seed in (0, 1, 4097, 2**32 + 1, 2**70)]  # 1 modulo powers of 2, too
    assert len({str(rows) for rows in others}) == 5


@pytest.mark.parametrize("filters", [{}, {"temperature": 0}, {"top_k": 5, "top_p": 0.9}], ids=str)
def test_padding_of_the_embedding_is_never_drawn(filters):
    model = lively(tiny("base"))
    padding = torch.arange(N_TOKENS, 64)
    model.lm_head.register_forward_hook(lambda module, given, logits: logits.index_fill(-1, padding, 1e4))
    assert (model(torch.tensor([[EOT]])).argmax(-1) >= N_TOKENS).all()
    rows = written(model, num_samples=4, max_tokens=20, **filters)
    assert any(rows)
    assert all(0 <= token < EOT for row in rows for token in row)


def test_a_row_stops_at_its_end_token():
    tokens = torch.tensor([[7, 8], [EOT, 9], [5, 10], [6, EOT], [1, 2], [3, 4]])  # (steps, rows)
    model = Scripted(20.0 * nn.functional.one_hot(tokens, 64))
    assert written(model, temperature=0, max_tokens=100) == [[7], [8, 9, 10]]
    assert model.steps == 4
    at_once = Scripted(20.0 * nn.functional.one_hot(torch.tensor([[EOT]]), 64))
    assert written(at_once, temperature=0, num_samples=3) == [[], [], []]
    assert at_once.steps == 1


@each_arch
def test_dropout_is_off_and_the_mode_comes_back(arch):
    plain, model = lively(tiny(arch)), lively(tiny(arch, dropout=0.5))
    expected = written(plain)
    for mode in (True, False):
        assert written(model.train(mode)) == expected
        assert all(module.training == mode for module in model.modules())
    with pytest.raises(IndexError):
        written(model.train(), prompt=[64])  # no such row in the embedding
    assert all(module.training for module in model.modules())


def kept(logits: list[float], temperature: float, top_k: int | None, top_p: float | None) -> dict[int, float]:
    """Probability of each id that may be drawn, spelled out one id at a time."""
    weights = {i: math.exp(logit / temperature) for i, logit in enumerate(logits)}
    ranked = sorted(weights, key=weights.get, reverse=True)[:top_k]
    total = sum(weights[i] for i in ranked)
    chosen, reached = [], 0.0
    for i in ranked:
        if top_p is not None and reached >= top_p:
            break
        chosen.append(i)
        reached += weights[i] / total
    return {i: weights[i] / sum(weights[j] for j in chosen) for i in chosen}


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_p", [None, 1e-6, 0.3, 0.8, 0.99, 1.0])
@pytest.mark.parametrize("top_k", [None, 1, 2, 5, 12, 13, 500])
def test_filters_against_spelling_them_out(top_k, top_p, temperature):
    torch.manual_seed(0)
    logits = 2 * torch.randn(20, 12).double()
    before = logits.clone()
    probabilities = filter_logits(logits / temperature, top_k, top_p).softmax(-1)
    assert torch.equal(logits, before)
    for row, drawn in zip(logits.tolist(), probabilities.tolist(), strict=True):
        expected = kept(row, temperature, top_k, top_p)
        assert {i for i, p in enumerate(drawn) if p > 0} == set(expected)
        assert all(drawn[i] == pytest.approx(p, rel=1e-9) for i, p in expected.items())


def test_ids_tied_with_the_last_one_kept_are_kept():
    logits = torch.tensor([[1.0, 2.0, 1.0, 0.0]])
    for filters in [(2, None), (None, 0.6)]:
        assert filter_logits(logits, *filters).isfinite().tolist() == [[True, True, True, False]]


@pytest.mark.parametrize("filters", [{"temperature": 1.7}, {"temperature": 0.8, "top_k": 7, "top_p": 0.9}], ids=str)
@pytest.mark.parametrize("sizes", [(1, 2000, 1), (2000, 1, 1), (1, 1, 2000)], ids=["a text", "rows", "seeds"])
def test_frequencies_are_the_probabilities(filters, sizes):
    """Within 5 standard deviations of the binomial count: a correct sampler fails one seed in 10,000 or so."""
    torch.manual_seed(0)
    logits = torch.randn(1, 1, 64)
    logits[..., EOT] = -1e9
    samples, length, seeds = sizes
    tokens = []
    for seed in range(seeds):
        rows = written(Scripted(logits), num_samples=samples, max_tokens=length, seed=seed, **filters)
        tokens += [token for row in rows for token in row]
    assert len(tokens) == 2000
    expected = kept(logits[0, 0, :EOT].tolist(), **({"top_k": None, "top_p": None} | filters))
    assert set(tokens) <= set(expected)
    for token, probability in expected.items():
        deviation = math.sqrt(2000 * probability * (1 - probability))
        assert abs(tokens.count(token) - 2000 * probability) < 5 * deviation, token
