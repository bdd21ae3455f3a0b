"""Reads requests in OpenAI's form: each field is checked, and one that would have to be ignored is refused.

https://platform.openai.com/docs/api-reference/completions and .../chat; `top_k`, `min_p` and `repetition_penalty` are
additions of ours that other servers have too.
"""

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from nanogpt.data.tokens.chat import NAMES
from nanogpt.inference.settings import Sampling
from nanogpt.runtime.errors import shorten

MAX_TOKENS, MAX_N, MAX_STOPS, LONGEST_STOP = 65_536, 64, 4, 1000
SHORT = 16  # tokens of a completion without max_tokens
ROLES = {name: name for name in NAMES} | {"developer": "system"}
Prompt = str | list[int] | list[dict[str, str]]  # a text, token ids, or messages


class Refused(Exception):
    """A request that is answered with an error; `param` is the field that is wrong."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):  # fmt: skip
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, dict(headers or {})


@dataclass(frozen=True)
class Asked:
    """What a request asks for; `model` None is the first, and `max_tokens` None leaves the number to the server."""

    chat: bool
    model: str | None
    prompts: list[Prompt]
    max_tokens: int | None
    options: dict[str, Any]  # all fields of Sampling but max_tokens
    seed: int
    top_logprobs: int | None
    stream: bool
    include_usage: bool

    def sampling(self, room: int) -> Sampling:
        """The settings; `room` is how many tokens an answer gets without max_tokens."""
        return Sampling(max_tokens=self.max_tokens or (room if self.chat else SHORT), **self.options)


class Field(NamedTuple):
    """Which values of a field are allowed, and the words for it."""

    test: Callable[[Any], bool]
    words: str


def _whole(low: int, high: int) -> Field:
    return Field(lambda value: type(value) is int and low <= value <= high, f"a whole number from {low} to {high}")


def _number(low: float, high: float) -> Field:
    # NaN and infinity are outside of all bounds.
    return Field(lambda value: type(value) in (int, float) and low <= value <= high, f"a number from {low} to {high}")


def _is_stop(value: Any) -> bool:
    found = [value] if isinstance(value, str) else value
    valid = isinstance(found, list) and len(found) <= MAX_STOPS
    return valid and all(isinstance(stop, str) and 0 < len(stop) <= LONGEST_STOP for stop in found)


def _is_usage_option(value: Any) -> bool:
    known = isinstance(value, dict) and value.keys() <= {"include_usage", "include_obfuscation"}
    return known and all(type(option) is bool for option in value.values())


BOOL = Field(lambda value: type(value) is bool, "true or false")
BOTH = {
    "model": Field(lambda value: isinstance(value, str), "a string"),
    "max_tokens": _whole(1, MAX_TOKENS),
    "max_completion_tokens": _whole(1, MAX_TOKENS),
    "n": _whole(1, MAX_N),
    "temperature": _number(0, 2),
    "top_p": _number(0, 1),
    "top_k": _whole(1, 2**31 - 1),
    "min_p": _number(0, 1),
    "repetition_penalty": _number(0.1, 10),
    "seed": _whole(-(2**63), 2**63 - 1),
    "stop": Field(_is_stop, f"a string of 1 to {LONGEST_STOP} characters, or a list of at most {MAX_STOPS} of them"),
    "stream": BOOL,
    "stream_options": Field(_is_usage_option, 'an object like {"include_usage": true}'),
}
# The prompt and the messages have checks of their own, which say more.
COMPLETION = BOTH | {"prompt": Field(lambda value: True, ""), "logprobs": _whole(0, 5)}
CHAT = BOTH | {"messages": Field(lambda value: True, ""), "logprobs": BOOL, "top_logprobs": _whole(0, 20)}
# They change nothing of a text.
IGNORED = {
    "user", "store", "metadata", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
    "parallel_tool_calls", "prediction", "reasoning_effort", "verbosity",
}  # fmt: skip
# They would change it, and are accepted with those values that do not.
UNSUPPORTED: dict[str, Sequence[Any]] = {
    "echo": (False,), "suffix": ("",), "logit_bias": ({},), "frequency_penalty": (0,), "presence_penalty": (0,),
    "response_format": ({"type": "text"},), "tools": ([],), "tool_choice": ("none", "auto"), "functions": ([],),
    "function_call": ("none", "auto"), "modalities": (["text"],), "audio": (), "web_search_options": (),
}  # fmt: skip


def read_request(body: bytes, chat: bool) -> Asked:
    """Check the body of a request for a completion, or with `chat` for an answer. Raises Refused."""
    given = {name: value for name, value in _parse(body).items() if value is not None}
    fields = CHAT if chat else COMPLETION
    for name, value in given.items():
        _check(name, value, fields, given.get("n", 1))
    stop, logprobs = given.get("stop", []), given.get("logprobs")
    if chat:
        if "top_logprobs" in given and not logprobs:
            raise Refused(400, "top_logprobs needs logprobs: true", "top_logprobs")
        logprobs = given.get("top_logprobs", 0) if logprobs else None
    if "stream_options" in given and not given.get("stream"):
        raise Refused(400, "stream_options needs stream: true", "stream_options")
    options = {
        "num_samples": given.get("n", 1),
        "temperature": float(given.get("temperature", 1)),
        "top_k": given.get("top_k"),
        "top_p": max(given.get("top_p", 1), 1e-9),  # 0 keeps the likeliest token
        "min_p": given.get("min_p") or None,
        "repetition_penalty": float(given.get("repetition_penalty", 1)),
        "stop": [stop] if isinstance(stop, str) else stop,
    }
    return Asked(
        chat=chat,
        model=given.get("model"),
        prompts=[_messages(given.get("messages"))] if chat else _prompts(given.get("prompt")),
        max_tokens=given.get("max_completion_tokens", given.get("max_tokens")),
        options=options,
        seed=given.get("seed", secrets.randbits(63)),
        top_logprobs=logprobs,
        stream=given.get("stream", False),
        include_usage=given.get("stream_options", {}).get("include_usage", False),
    )


def _parse(body: bytes) -> dict[str, Any]:
    def refuse_constant(name: str) -> None:
        raise ValueError(f"{name} is no number of JSON")

    try:
        found = json.loads(body, parse_constant=refuse_constant)
    except RecursionError:
        raise Refused(400, "the body is nested too deeply") from None
    except ValueError as error:
        raise Refused(400, f"the body is not JSON: {shorten(error)}") from None
    if not isinstance(found, dict):
        raise Refused(400, f"the body is {_describe(found)}; send a JSON object")
    return found


def _check(name: str, value: Any, fields: dict[str, Field], n: int) -> None:
    """Raise Refused for a field that is unknown, unsupported, or has a wrong value."""
    if name in fields:
        if not fields[name].test(value):
            raise Refused(400, f"{name} is {_describe(value)}; choose {fields[name].words}", name)
    elif name == "best_of" and fields is COMPLETION:
        if type(value) is not int or value != n:
            raise Refused(400, f"best_of is {_describe(value)}; only the value of n is supported", name)
    elif name in UNSUPPORTED:
        if value not in UNSUPPORTED[name]:
            raise Refused(400, f"{name} is not supported; leave it out", name)
    elif name not in IGNORED:
        raise Refused(400, f"{shorten(name, 40)} is not a field of this request; leave it out", shorten(name, 40))


def _prompts(value: Any) -> list[Prompt]:
    """The prompts of a completion: one or several, as text or token ids."""
    if isinstance(value, str) or _are_ids(value):
        return [value]
    if isinstance(value, list) and value and (all(isinstance(one, str) for one in value) or all(map(_are_ids, value))):
        return value
    found = "missing" if value is None else _describe(value)
    allowed = "a string, a list of strings, a list of token ids, or a list of such lists"
    raise Refused(400, f"prompt is {found}; give {allowed}", "prompt")


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(one) is int for one in value)


def _messages(value: Any) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        found = "missing" if value is None else _describe(value)
        raise Refused(400, f"messages is {found}; give a list of objects with role and content", "messages")
    return [_message(one, f"messages[{i}]") for i, one in enumerate(value)]


def _message(value: Any, where: str) -> dict[str, str]:
    """One message, `content` a string or a list of parts of type text."""
    if not isinstance(value, dict):
        raise Refused(400, f"{where} is {_describe(value)}; give an object with role and content", where)
    role, content = value.get("role"), value.get("content")
    if not isinstance(role, str) or role not in ROLES:
        raise Refused(400, f"{where}.role is {_describe(role)}; choose one of {', '.join(ROLES)}", f"{where}.role")
    for name in ("tool_calls", "function_call"):
        if value.get(name):
            raise Refused(400, f"{where}.{name} is not supported; leave it out", f"{where}.{name}")
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        texts = [part.get("text") for part in content]
        content = "".join(texts) if all(isinstance(text, str) for text in texts) else None
    if not isinstance(content, str):
        raise Refused(400, f"{where}.content is {_describe(content)}; only text is supported", f"{where}.content")
    return {"role": ROLES[role], "content": content}


def _describe(value: Any) -> str:
    """A value of JSON in a message; lists and objects may be too large or too deep to show."""
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if isinstance(value, dict):
        return "an object"
    return "null" if value is None else shorten(json.dumps(value if not isinstance(value, str) else value[:200]), 60)
