from dataclasses import replace

import pytest
import torch
from benchmark_shapes import SETTINGS
from small_models import lively, tiny, tokens

from nanogpt.benchmark import decoding
from nanogpt.benchmark.decoding import (
    Writing,
    build_writing,
    measure_decoding,
    story_batches,
    weight_bytes,
    with_packed_weights,
)
from nanogpt.data.sources import stories
from nanogpt.data.sources.derivation import derive
from nanogpt.inference.engine import Engine


def test_figures_by_hand(monkeypatch):
    rates = {"one": 600.0, "one_transformers": 150.0, "batch16": 3000.0, "batch16_transformers": 1000.0}
    rates |= {"one_int8": 750.0, "batch16_int8": 4000.0}
    monkeypatch.setattr(decoding, "time_writing", lambda ways, settings: {name: rates[name] for name in ways})
    monkeypatch.setattr(decoding, "read_rate", lambda n_bytes: 2000.0 * n_bytes)
    monkeypatch.setattr(decoding, "int8_change", lambda settings: 0.25)
    monkeypatch.setattr(decoding, "supported", lambda: ["float32", "float16", "int8"])
    assert measure_decoding(SETTINGS) == {
        "one_stream_over_transformers": 4.0, "batch16_over_transformers": 3.0, "bandwidth_share": 0.3,
        "tokens_per_s": 600.0, "batch16_tokens_per_s": 3000.0, "one_stream_int8_over_transformers": 5.0,
        "batch16_int8_over_transformers": 4.0, "int8_bpb_change_percent": 0.25,
    }  # fmt: skip


@pytest.mark.parametrize("program", ["nanogpt", "transformers"])
@pytest.mark.parametrize("arch", ["base", "optimized"])
def test_a_step_writes_all_its_tokens(arch, program, monkeypatch):
    """After prompts that differ from step to step, and the same ones for both programs."""
    written, add = [], Engine.add
    monkeypatch.setattr(Engine, "add", lambda self, ids, *rest, **named: written.append(add(self, ids, *rest, **named)))
    if program == "transformers":
        from transformers import GenerationMixin

        generate = GenerationMixin.generate
        monkeypatch.setattr(
            GenerationMixin, "generate", lambda *args, **named: written.extend(generate(*args, **named))
        )
    settings = replace(SETTINGS, block_size=128)
    step = build_writing("way", Writing(program, arch, "float32", 3), settings)["way"]
    step()
    step()
    texts = [row.tokens if program == "nanogpt" else row.tolist() for row in written]
    assert [len(text) for text in texts] == [decoding.PROMPT + decoding.TOKENS] * 6
    generators = [torch.Generator().manual_seed(step) for step in range(2)]
    prompts = [torch.randint(64, (3, decoding.PROMPT), generator=generator) for generator in generators]
    assert [text[1 : decoding.PROMPT] for text in texts] == torch.cat(prompts)[:, 1:].tolist()


def test_bytes_of_weights():
    config = tiny("optimized", n_embd=32, vocab_size=2**16)
    blocks = 2 * (32 * 32 + 2 * 16 * 32 + 32 * 32 + 3 * 64 * 32)
    head = 2**16 * 32
    assert weight_bytes(config, "float32") == 4 * (blocks + head)
    assert weight_bytes(config, "float16") == 2 * (blocks + head)


def test_batches_are_generated_stories():
    batches = list(story_batches(replace(SETTINGS, vocab_size=256, block_size=400), 3))
    text = b"".join(bytes(ids.flatten().tolist()) for ids, _ in batches).decode()
    assert all(torch.equal(ids.flatten()[1:], targets.flatten()[:-1]) for ids, targets in batches)
    assert all(ids.shape == (3, 400) for ids, _ in batches)
    whole = text.split("\n\n")
    assert isinstance(derive(stories.GRAMMAR, "\n\n".join(whole[:3])), list)


@torch.no_grad()
def test_packed_weights_in_full_passes():
    """Those of the engine: a model with them differs a little from its original, which stays as it is."""
    config = tiny("base")
    model, ids = lively(config), tokens(config)
    packed = with_packed_weights(model, "float16")
    before = model(ids)
    difference = (packed(ids) - before).norm() / before.norm()
    assert 1e-7 < difference < 1e-3 and torch.equal(model(ids), before)
    torch.testing.assert_close(packed(ids, ids), model(ids, ids), rtol=1e-3, atol=0)
