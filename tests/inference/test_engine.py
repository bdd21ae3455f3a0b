import itertools

import pytest
import torch
from sampling_settings import sampling
from small_models import each_arch, lively, tiny
from torch import nn
from transformers import AutoModelForCausalLM

from nanogpt.checkpoint.folder import save_checkpoint
from nanogpt.data.prepare.train_tokenizer import train_tokenizer
from nanogpt.data.tokens.settings import TokenizerSettings
from nanogpt.inference.engine import CACHE_SHARE, Engine, Row
from nanogpt.inference.settings import Sampling
from nanogpt.runtime.errors import UserError

EOT, N_TOKENS = 49, 50  # of the 64 rows of the tiny models' embedding
PROMPT = [3, 1, 4, 1, 5]


def finish(engine: Engine) -> None:
    while engine.step():
        pass


def text(row: Row, prompt: list[int], eot: int = EOT) -> list[int]:
    """What was added, up to the end token."""
    return list(itertools.takewhile(lambda token: token != eot, row.tokens[1 + len(prompt) :]))


def written(
    model: nn.Module, prompt: list[int] = PROMPT, seed: int = 1, n_tokens: int = N_TOKENS, eot: int = EOT, **changes
) -> list[list[int]]:
    """Texts of the same prompt, written at once."""
    engine, settings = Engine(model, n_tokens, eot), sampling(**changes)
    rows = [engine.add(prompt, settings, seed, number) for number in range(settings.num_samples)]
    finish(engine)
    return [text(row, prompt, eot) for row in rows]


def alone(model: nn.Module, prompt: list[int], settings: Sampling, number: int = 0) -> list[int]:
    """All tokens of a text that a new engine writes."""
    engine = Engine(model, EOT, EOT)
    row = engine.add(prompt, settings, 1, number)
    finish(engine)
    return row.tokens


def within(block_size: int, context: list[int]) -> list[int]:
    """The rule: a context longer than the block is cut to its last half block, read from position 0."""
    return context if len(context) <= block_size else context[-max(1, block_size // 2) :]


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
    (found,) = written(model, prompt, num_samples=1, temperature=0, max_tokens=40, n_tokens=EOT)  # no end token
    context, expected = [EOT, *prompt], []
    while len(expected) < 40:
        context = within(block_size, context)
        expected.append(model(torch.tensor([context]))[0, -1, :EOT].argmax().item())
        context = [*context, expected[-1]]
    assert found == expected


@each_arch
@torch.no_grad()
def test_log_probabilities_are_those_of_plain_full_passes(arch):
    """Also where the block overflows, and before temperature, penalty and filters change them."""
    model, settings = lively(tiny(arch)), sampling(max_tokens=50, temperature=1.5, top_k=20, repetition_penalty=1.2)
    engine = Engine(model, EOT, EOT)  # no end token to be drawn
    rows = [engine.add(PROMPT, settings, 1, number, top_logprobs=3) for number in range(3)]
    found = {row: [] for row in rows}
    while news := engine.step():
        for row, token in news:
            found[row].append(token)
    for row in rows:
        context = [EOT, *PROMPT]
        assert len(found[row]) == 50
        for token in found[row]:
            context = within(16, context)
            expected = model(torch.tensor([context]))[0, -1, :EOT].log_softmax(-1)
            assert token.logprob == pytest.approx(expected[token.id].item(), abs=1e-4)
            best = expected.topk(3)
            assert [id for id, _ in token.top] == best.indices.tolist()
            assert [value for _, value in token.top] == pytest.approx(best.values.tolist(), abs=1e-4)
            context = [*context, token.id]


@each_arch
def test_texts_do_not_depend_on_what_else_is_written(arch):
    """Prompts of several lengths and settings, greedy and drawn, that enter and leave at different times."""
    model = lively(tiny(arch))
    prompts = [[], PROMPT, list(range(30)), PROMPT[:3], [*PROMPT, 9], [7] * 12, PROMPT, list(range(29))]
    kinds = [{"temperature": 0}, {}, {"top_k": 5}, {"top_p": 0.7}, {"min_p": 0.1}, {"repetition_penalty": 1.5}]
    jobs = [
        (prompt, sampling(max_tokens=5 + 7 * n, **kinds[n % len(kinds)]), n) for n, prompt in enumerate(prompts * 2)
    ]
    alone = []
    for prompt, settings, seed in jobs:
        engine = Engine(model, N_TOKENS, EOT)
        row = engine.add(prompt, settings, seed)
        finish(engine)
        alone.append(text(row, prompt))
    engine, rows = Engine(model, N_TOKENS, EOT, max_rows=4), []
    for prompt, settings, seed in jobs:
        rows.append(engine.add(prompt, settings, seed))
        engine.step()
        engine.step()
    finish(engine)
    assert [text(row, prompt) for row, (prompt, _, _) in zip(rows, jobs, strict=True)] == alone
    assert len({tuple(found) for found in alone}) > 10


def test_a_text_that_is_removed_leaves_the_others_alone():
    model, settings = lively(tiny("optimized")), sampling(temperature=0, max_tokens=30)
    engine = Engine(model, EOT, EOT, max_rows=2)
    rows = [engine.add([n], settings, 1) for n in range(4)]
    engine.step()
    engine.remove(rows[0])  # while it is written
    engine.remove(rows[2])  # while it waits
    finish(engine)
    engine.remove(rows[1])  # when it has ended
    assert [len(row.tokens) for row in rows] == [3, 32, 2, 32]
    for n in (1, 3):
        assert [text(rows[n], [n])] == written(model, [n], num_samples=1, temperature=0, max_tokens=30, n_tokens=EOT)


def test_a_common_beginning_is_computed_once(monkeypatch):
    model = lively(tiny("base", block_size=32))
    engine, settings, read = Engine(model, EOT, EOT), sampling(max_tokens=3), []
    compute = engine.decoder.read

    def spy(parts):
        lengths = [len(part.ids) for part in parts if part.ids]
        if lengths:
            read.append(lengths)
        compute(parts)

    monkeypatch.setattr(engine.decoder, "read", spy)
    prompt = [*PROMPT, 5, 6, 7, 8]
    rows = [engine.add(prompt, settings, 1, number) for number in range(5)]
    finish(engine)
    assert read == [[9]]  # the end token and all of the prompt but its last
    assert [row.tokens for row in rows] == [alone(model, prompt, settings, number) for number in range(5)]
    read.clear()
    answer = rows[-1].tokens[1:]
    engine.add([*answer, 7, 8], settings, 1)  # a conversation goes on
    finish(engine)
    assert read == [[2]]  # the last token of the answer was never read, and 7; 8 comes with the first step
    read.clear()
    for ids in ([30, 31, 32], [*PROMPT, 9], [*PROMPT, 10]):
        engine.add(ids, settings, 1)
    finish(engine)
    assert read == [[3, 6, 6]]  # too little in common, read together


def test_a_text_that_could_not_be_read_is_not_taken_for_read(monkeypatch):
    model = lively(tiny("base", block_size=32))
    engine, settings, prompt = Engine(model, EOT, EOT), sampling(max_tokens=3), [*range(20, 30)]

    def fail(parts):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(engine.decoder, "read", fail)
        rows = [engine.add(prompt, settings, 1), engine.add([1, 2], settings, 1)]
        with pytest.raises(MemoryError):
            engine.step()
    assert engine.step() == []  # neither goes on
    for row in rows:
        engine.remove(row)  # as a server does
    again = engine.add(prompt, settings, 1)
    finish(engine)
    assert again.tokens == alone(model, prompt, settings)


def test_a_row_depends_on_the_seed_and_its_number_alone():
    model = lively(tiny("base"))
    five = written(model, num_samples=5, max_tokens=30)
    assert len({tuple(row) for row in five}) == 5
    torch.rand(3)
    assert all(written(model, num_samples=n, max_tokens=30) == five[:n] for n in (1, 2, 5))
    others = [written(model, seed=seed) for seed in (0, 1, 4097, 2**32 + 1, 2**70)]  # 1 modulo powers of 2, too
    assert len({str(rows) for rows in others}) == 5


@pytest.mark.parametrize("filters", [{}, {"temperature": 0}, {"top_k": 5, "top_p": 0.9}, {"min_p": 0.1}], ids=str)
@torch.no_grad()
def test_padding_of_the_embedding_is_never_drawn(filters):
    model = lively(tiny("base"))
    model.transformer.ln_f.bias.fill_(5)
    model.lm_head.weight[N_TOKENS:] = 10
    assert (model(torch.tensor([[EOT]])).argmax(-1) >= N_TOKENS).all()
    rows = written(model, num_samples=4, max_tokens=20, **filters)
    assert any(rows)
    assert all(0 <= token < EOT for row in rows for token in row)


def test_a_text_ends_at_its_end_token_and_frees_its_row():
    model = lively(tiny("base"))
    endless = written(model, temperature=0, max_tokens=100, num_samples=1, n_tokens=EOT)[0]
    with torch.no_grad():
        model.lm_head.weight[EOT] = 2 * model.lm_head.weight[endless[3]]
    engine = Engine(model, N_TOKENS, EOT)
    row = engine.add(PROMPT, sampling(temperature=0, max_tokens=100), 1)
    steps = 0
    while engine.step():
        steps += 1
    found = text(row, PROMPT)
    assert row.tokens[-1] == EOT and steps == len(found) + 1 <= 4 and not engine.rows
    assert found == endless[: len(found)]


@each_arch
def test_dropout_is_off(arch):
    assert written(lively(tiny(arch, dropout=0.5)).train()) == written(lively(tiny(arch)))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_output_that_is_not_finite(bad, temperature):
    model = lively(tiny("base"))
    with torch.no_grad():
        model.lm_head.weight[5] = bad
    with pytest.raises(UserError, match="the model's output is not finite: its weights are damaged"):
        written(model, temperature=temperature)


def test_keys_and_values_take_a_share_of_the_free_memory(monkeypatch):
    model = lively(tiny("base", block_size=16))
    slot_mib = Engine(model, N_TOKENS, EOT).decoder.cache.nbytes / 2**20
    monkeypatch.setattr("nanogpt.inference.engine.available_mib", lambda: 4.1 * slot_mib / CACHE_SHARE)
    assert Engine(model, N_TOKENS, EOT).max_rows == 4
    monkeypatch.setattr("nanogpt.inference.engine.available_mib", lambda: 0.0)
    assert Engine(model, N_TOKENS, EOT).max_rows == 1
