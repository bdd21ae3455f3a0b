import dataclasses

import pytest
from benchmark_shapes import SETTINGS

from nanogpt.runtime.errors import BadSetting


@pytest.mark.parametrize(
    ("key", "value"),
    [("vocab_size", 0), ("batch_size", 0), ("num_iters", 0), ("threads", 0), ("n_layer", 0), ("n_embd", 33),
     ("n_embd", 36), ("n_kv_head", 3)],
)  # fmt: skip
def test_wrong_settings(key, value):
    with pytest.raises(BadSetting) as caught:
        dataclasses.replace(SETTINGS, **{key: value})
    assert (caught.value.key, caught.value.value) == (key, value)


def test_threads_may_be_left_to_the_machine():
    assert dataclasses.replace(SETTINGS, threads="auto").threads == "auto"


@pytest.mark.parametrize("arch", ["base", "optimized"])
def test_a_models_shape(arch):
    config = SETTINGS.config(arch)
    assert config.arch == arch
    for key in ("n_layer", "n_head", "n_kv_head", "n_embd", "block_size", "vocab_size"):
        assert getattr(config, key) == getattr(SETTINGS, key)
    assert config.dropout == 0 and not config.tie_embeddings


def test_tokens_a_step():
    assert SETTINGS.tokens == 3 * 16
