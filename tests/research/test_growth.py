from dataclasses import replace

from benchmark_shapes import SETTINGS, time_nothing

from nanogpt.model.build import model_flops
from nanogpt.research import growth
from nanogpt.runtime.cores import usable_cores

REFERENCE = replace(SETTINGS, n_head=5, n_embd=320, block_size=256, batch_size=8, vocab_size=50304)


def test_one_setting_varies_where_the_machine_and_the_tokens_allow_it():
    wider = replace(REFERENCE, n_embd=512, n_head=8, n_kv_head=1)
    assert growth.vary(REFERENCE, "n_embd", 512) == wider
    assert growth.vary(REFERENCE, "block_size", 1024) == replace(REFERENCE, block_size=1024, batch_size=2)
    assert growth.vary(REFERENCE, "threads", usable_cores() + 1) is None
    assert growth.vary(replace(REFERENCE, batch_size=2), "block_size", 1024) is None


def test_figures_of_a_step(monkeypatch):
    """`time_nothing` says that the step takes 1 s."""
    monkeypatch.setattr(growth, "time_in_turns", time_nothing)
    monkeypatch.setattr(growth, "VALUES", {"batch_size": (1, 3)})
    figures = growth.measure_growth(SETTINGS)["batch_size"]
    flops = model_flops(SETTINGS.config("optimized"), 3 * 16)
    assert figures["3"] == {"step_ms": 1000, "tokens_per_s": 3 * 16, "gflops": flops / 1e9, "peak_mib": 100}
    assert list(figures) == ["1", "3"]
