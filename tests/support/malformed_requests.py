"""Requests that no server should like: several kinds, made of a seed, as the bytes that go over the wire."""

import json
import random
import socket
from collections.abc import Iterator

WRONG = {  # values that no field of this name may have
    "model": [3, ["small"], {"a": 1}, True],
    "prompt": [3, {"a": 1}, [], [[]], ["a", 1], [1, "a"], [1.5], [-1], [257], [2**70], [[1], "a"], [[10**9]], [None]],
    "max_tokens": [0, -1, 1.5, "9", 65_537, 10**30, True, [], {}],
    "n": [0, -1, 65, 1e3, "2", False],
    "temperature": [-0.1, 2.1, 1e300, "hot", True, [1]],
    "top_p": [-1, 1.01, "x", False, {}],
    "top_k": [0, -1, 2**31, 0.5, "4"],
    "min_p": [-1e-9, 2, "x"],
    "repetition_penalty": [0, -1, 1e9, "x", 1e-300],
    "seed": [0.5, "a", 2**63, True],
    "stop": [3, "", [""], ["a"] * 5, [1], {}, "x" * 1001],
    "stream": [1, "true", []],
    "stream_options": [True, [], {"include_usage": 1}, {"other": True}, {"include_usage": True}],
    "logprobs": [6, -1, True, "2", 1.0],
    "echo": [True, 1, "yes"],
    "best_of": [2, 0, "x", 1.0],
    "suffix": ["end", 3],
    "logit_bias": [{"5": 1}, [], "x"],
    "frequency_penalty": [0.1, "x", []],
    "presence_penalty": [-2, {}],
    "tools": [[{"type": "function"}], "x"],
    "response_format": [{"type": "json_object"}, "text"],
    "max_tokenz": [3],
}
WRONG_CHAT = {
    "messages": [
        3, [], {}, [3], [{}], [{"role": "user"}], [{"role": "tool", "content": "x"}], [{"role": 3, "content": "x"}],
        [{"role": "user", "content": 3}], [{"role": "user", "content": [{"type": "image_url"}]}],
        [{"role": "user", "content": [{"type": "text", "text": 3}]}],
        [{"role": "user", "content": "x", "tool_calls": [{}]}],
    ],
    "logprobs": [1, "x", 0],
    "top_logprobs": [21, -1, True, 3],  # the last without logprobs
    "max_completion_tokens": [0, "x", 1e9],
}  # fmt: skip
GOOD = {"prompt": "A cat", "max_tokens": 3}
GOOD_CHAT = {"model": "chatty", "messages": [{"role": "user", "content": "A cat?"}], "max_tokens": 3}


def wrong_fields() -> Iterator[tuple[str, str, object]]:
    """(path, field, value) of every wrong value."""
    for path, table in (("/v1/completions", WRONG), ("/v1/chat/completions", WRONG_CHAT)):
        for name, values in table.items():
            for value in values:
                yield path, name, value


def with_field(path: str, name: str, value: object) -> bytes:
    """The body of a request that is good but for one field."""
    return json.dumps((GOOD_CHAT if "chat" in path else GOOD) | {name: value}).encode()


def malformed(count: int, seed: int = 0) -> Iterator[tuple[bytes, bool]]:
    """Bytes to send, and whether an answer is due: not where the client leaves in the middle of a request."""
    rng = random.Random(seed)
    fields = list(wrong_fields())
    kinds = (_noise, _truncated_json, _field, _deep, _bad_utf8, _bad_headers, _huge_number, _cut_off, _wrong_json)
    for i in range(count):
        yield kinds[i % len(kinds)](rng, fields)


def send(port: int, data: bytes, answered: bool) -> int | None:
    """Send bytes and return the status of the answer, None where the server only closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        try:
            client.sendall(data)
            if not answered:
                return None
            head = b""
            while b"\r\n" not in head and (part := client.recv(4096)):
                head += part
        except ConnectionError:  # closed before it had read all
            return None
    return int(head.split()[1]) if head else None


def post(body: bytes, path: str = "/v1/completions", headers: bytes = b"Content-Type: application/json\r\n") -> bytes:
    """The bytes of a POST that ends its connection."""
    start = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n".encode()
    return start + headers + b"\r\n" + body


def _noise(rng, fields):
    noise = rng.randbytes(rng.randint(1, 300))
    return rng.choice((post(noise), noise + b"\r\n\r\n" if noise[0] > 31 else post(noise))), True


def _truncated_json(rng, fields):
    body = json.dumps(rng.choice((GOOD, GOOD_CHAT))).encode()
    return post(body[: rng.randint(0, len(body) - 1)]), True


def _field(rng, fields):
    path, name, value = rng.choice(fields)
    return post(with_field(path, name, value), path), True


def _deep(rng, fields):
    depth = rng.choice((200, 900, 1100, 50_000))
    opening, closing = rng.choice((("[", "]"), ('{"a":', "}")))
    deep = opening * depth + ("1" if opening != "[" else "") + closing * depth
    name = rng.choice(("prompt", "stop", "stream_options", "logit_bias", "metadatum"))
    return post(rng.choice((deep, f'{{"{name}": {deep}}}')).encode()), True


def _bad_utf8(rng, fields):
    bad = rng.choice((b"\xff", b"\xc3", b"\xe2\x82", b"\xf8\x88\x80\x80\x80", b"\x00"))
    return post(b'{"max_tokens": 2, "prompt": "' + bad + b'"}'), True


def _huge_number(rng, fields):
    number = rng.choice(("1" * 5000, "1e999", "-1e999", "NaN", "Infinity", "-Infinity", "0." + "1" * 5000 + "e400"))
    name = rng.choice(("max_tokens", "temperature", "seed", "n", "prompt", "top_k", "logprobs"))
    return post(f'{{"prompt": "a", "{name}": {number}}}'.encode()), True


def _wrong_json(rng, fields):
    return post(rng.choice((b"", b"null", b"3", b'"prompt"', b"[]", b"{]", b"{'prompt': 'a'}", b"\xef\xbb\xbf"))), True


def _cut_off(rng, fields):
    whole = post(json.dumps(rng.choice((GOOD, GOOD | {"stream": True, "max_tokens": 500}))).encode())
    return whole[: rng.randint(1, len(whole))], False


def _bad_headers(rng, fields):
    body = json.dumps(GOOD).encode()
    start = b"POST /v1/completions HTTP/1.1\r\n"
    kind = b"Content-Type: application/json\r\n"
    close = b"Connection: close\r\n"
    return rng.choice(
        (
            start + close + kind + b"\r\n" + body,  # no host, no length
            start + b"Host: x\r\nContent-Length: -5\r\n" + close + kind + b"\r\n" + body,
            start + b"Host: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n" + kind + b"\r\n" + body,
            start + b"Host: x\r\nContent-Length: x\r\n" + kind + b"\r\n" + body,
            start + b"Host: x\r\nTransfer-Encoding: chunked\r\n" + close + kind + b"\r\nzz\r\n" + body,
            start + b"Host: x\r\nTransfer-Encoding: gzip\r\n" + close + kind + b"\r\n" + body,
            b"POST /nowhere HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n" + kind + b"\r\n1\r\na\r\nzz\r\n",
            b"DELETE /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n" + close + b"\r\nabcd",
            b"GET /v1/models HTTP/9.9\r\nHost: x\r\n\r\n",
            b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n" + close + b"\r\n",
            b"GET /nowhere/%ff%00\xff HTTP/1.1\r\nHost: x\r\n" + close + b"\r\n",
            b"GET /v1/models/%ff%00%ed%a0%80 HTTP/1.1\r\nHost: x\r\n" + close + b"\r\n",
            b"GET /nowhere HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
            b"GET /nowhere HTTP/1.1\r\nHost: [\r\n" + close + b"\r\n",
            b"GET /nowhere HTTP/1.1\r\nHost: x\r\nBad Header\r\n\r\n",
            post(body, headers=b"Content-Type: text/plain\r\n"),
            post(body, headers=b""),
            post(body, headers=b"Content-Type: application/json; charset=\xff\r\nX\xfe: 1\r\n"),
            post(b"x" * (2**20 + 1)),
        )
    ), True
