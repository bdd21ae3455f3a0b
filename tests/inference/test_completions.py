import math

import pytest

from nanogpt.inference.completions import complete
from nanogpt.inference.decode import decode
from nanogpt.inference.settings import SampleSettings
from nanogpt.runtime.errors import BadSetting, UserError


def settings(**changed) -> SampleSettings:
    values = {"prompts": ["The cat", "tea\n\nand"], "num_samples": 2, "max_tokens": 12, "temperature": 1.0}
    return SampleSettings(**values | {"top_k": None, "top_p": None} | changed)


def test_texts_begin_with_the_prompt_and_are_those_of_decode(tiny, byte):
    model, chosen = tiny().eval(), settings(num_samples=8, max_tokens=200)
    found = complete(model, byte, "The cat", chosen, 3)
    steps = decode(model, list(b"The cat"), chosen, 3, n_tokens=257, eot=256)
    rows = [row[: row.index(256)] if 256 in row else row for row in map(list, zip(*steps, strict=True))]
    assert found == [(b"The cat" + bytes(row)).decode(errors="replace") for row in rows]
    assert min(map(len, rows)) < 200


def test_characters_that_the_tokenizer_lacks(tiny, char):
    with pytest.raises(UserError, match=r"does not know: .*'Ω' U\+03A9, 'щ' U\+0449"):
        complete(tiny(vocab_size=char.vocab_size), char, "The Ω and щ", settings(), 1)


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_samples", 0), ("max_tokens", 0), ("prompts", []), ("prompts", ["a", ""]), ("temperature", -0.1),
     ("temperature", math.nan), ("temperature", math.inf), ("top_k", 0), ("top_p", 0.0), ("top_p", 1.1)],
)  # fmt: skip
def test_wrong_settings(key, value):
    with pytest.raises(BadSetting) as caught:
        settings(**{key: value})
    assert caught.value.key == key and caught.value.value is value
