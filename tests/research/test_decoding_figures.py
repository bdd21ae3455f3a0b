from dataclasses import replace

import pytest
from benchmark_shapes import SETTINGS, time_nothing

from nanogpt.inference.products import supported
from nanogpt.research import decoding

SHAPE = replace(SETTINGS, n_embd=64, block_size=256, vocab_size=512, num_iters=1)


def test_every_format_and_number_of_texts_is_timed(monkeypatch):
    monkeypatch.setattr("nanogpt.benchmark.decoding.time_in_turns", time_nothing)
    monkeypatch.setattr(decoding, "STREAMS", (1, 2))
    found = decoding.measure_formats(replace(SETTINGS, block_size=128))
    rows = {f"{arch} {kind}" for arch in ("base", "optimized") for kind in [*supported(), "transformers", "cache"]}
    assert found.keys() == rows
    assert all(rates.keys() == {"1", "2"} for name, rates in found.items() if not name.endswith("cache"))


@pytest.mark.slow
def test_what_a_person_waits_for():
    """The real command and the real server, with as many clients at once."""
    figures = decoding.measure_use(SHAPE)
    assert 0.2 < figures["first_token_s"] < 60
    assert figures["over_engine_32"] == pytest.approx(
        figures["server_32_tokens_per_s"] / figures["engine_32_tokens_per_s"]
    )
    assert figures["streamed_over_engine_32"] > 0 and figures["over_engine_32"] > 0


@pytest.mark.slow
def test_llamacpp_beside_ours():
    pytest.importorskip("llama_cpp")
    figures = decoding.measure_llamacpp(SHAPE)
    assert len(figures) == 14 and all(figure > 0 for figure in figures.values())
