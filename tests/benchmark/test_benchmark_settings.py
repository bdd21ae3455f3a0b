import dataclasses

import pytest
from benchmark_shapes import SETTINGS

from nanogpt.runtime.errors import BadSetting


@pytest.mark.parametrize(("key", "value"), [("num_iters", 0), ("n_embd", 33)])
def test_wrong_settings(key, value):
    with pytest.raises(BadSetting) as caught:
        dataclasses.replace(SETTINGS, **{key: value})
    assert (caught.value.key, caught.value.value) == (key, value)
