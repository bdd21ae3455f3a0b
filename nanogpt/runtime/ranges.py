"""Allowed values of settings, written beside their types: `lr: Annotated[float, Require(lambda x: x > 0, ...)]`."""

import typing
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

from nanogpt.runtime.errors import BadSetting


class Require(NamedTuple):
    """A test that a setting's value must pass unless it is null or "auto", with the words for a value that fails."""

    test: Callable[[Any], bool]
    reason: str
    remedy: str


class CheckedSettings:
    """Base of settings dataclasses: creating one raises BadSetting for a field that fails its `Require`."""

    def __post_init__(self) -> None:
        for key, kind in typing.get_type_hints(type(self), include_extras=True).items():
            check_value(key, kind, getattr(self, key))


def check_value(key: str, kind: Any, value: object) -> None:
    """Raise BadSetting if `value` fails a `Require` of the type `kind`."""
    for require in getattr(kind, "__metadata__", ()):
        if value is not None and value != "auto" and not require.test(value):
            raise BadSetting(key, value, require.reason, require.remedy)


def is_unicode(text: str) -> bool:
    """Whether a text has no half of a surrogate pair, which is what a terminal's other bytes become."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


PositiveInt = Annotated[int, Require(lambda n: n >= 1, "must be at least 1", "choose a positive whole number")]
Dropout = Annotated[float, Require(lambda p: 0 <= p < 1, "not a probability below 1", "choose 0.0 to 0.5")]
CORES = Require(lambda n: 1 <= n <= 4096, "not between 1 and 4096", "choose auto or a number of cores")
Threads = Annotated[int | Literal["auto"], CORES]
# torch's generator on the CPU ignores all bits of a seed above these 32
SEEDS = Require(lambda n: 0 <= n < 2**32, f"not between 0 and {2**32 - 1}", "choose a small whole number, like 1")
Seed = Annotated[int, SEEDS]
