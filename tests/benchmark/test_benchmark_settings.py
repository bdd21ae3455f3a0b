import dataclasses

import pytest
from benchmark_shapes import SETTINGS

from nanogpt.runtime.errors import BadSetting


@pytest.mark.parametrize(
    ("key", "value"), [("vocab_size", 0), ("batch_size", 0), ("num_iters", 0), ("threads", 0), ("n_embd", 33)]
)
def test_wrong_settings(key, value):
    with pytest.raises(BadSetting) as caught:
        dataclasses.replace(SETTINGS, **{key: value})
    assert (caught.value.key, caught.value.value) == (key, value)


def test_threads_may_be_auto():
    assert dataclasses.replace(SETTINGS, threads="auto").threads == "auto"


def test_config_has_the_shape():
    config = SETTINGS.config("optimized")
    for key in ("n_layer", "n_head", "n_kv_head", "n_embd", "block_size", "vocab_size"):
        assert getattr(config, key) == getattr(SETTINGS, key)
