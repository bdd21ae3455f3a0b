"""A benchmark of a tiny shape, steps counted in floating point operations, and timing without a clock."""

from collections.abc import Callable

from torch.utils.flop_counter import FlopCounterMode

from nanogpt.benchmark.settings import BenchmarkSettings
from nanogpt.benchmark.timing import Times

SETTINGS = BenchmarkSettings(
    n_layer=2, n_head=4, n_kv_head=1, n_embd=32, block_size=16, vocab_size=64,
    batch_size=3, num_iters=2, dtype="float32", compile="off", threads=1,
)  # fmt: skip


def count_flops(step: Callable) -> int:
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def time_nothing(entries: dict[str, Callable], steps: int) -> Times:
    """Stands in for `time_in_turns`: every step runs once in this process, and the n-th takes n seconds."""
    names = []
    for build in entries.values():
        for name, step in build().items():
            step()
            names.append(name)
    return Times({name: [place + 1.0] for place, name in enumerate(names)}, dict.fromkeys(entries, 100.0))
