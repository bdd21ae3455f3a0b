"""A benchmark of a tiny shape."""

from nanogpt.benchmark.settings import BenchmarkSettings

SETTINGS = BenchmarkSettings(
    n_layer=2, n_head=4, n_kv_head=1, n_embd=32, block_size=16, vocab_size=64,
    batch_size=3, num_iters=2, dtype="float32", compile="off", threads=1,
)  # fmt: skip
