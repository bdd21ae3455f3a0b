import contextlib
import json
import socket
import threading

import openai
import pytest
import requests
from loopback import wait_until
from malformed_requests import GOOD, malformed, post, send, with_field, wrong_fields
from served import (
    BLOCK,
    ENDLESS,
    ask,
    assert_error,
    health,
    long_stream,
    wait_until_idle,
)

from nanogpt.inference.server import MAX_BODY


@pytest.mark.parametrize(("path", "name", "value"), list(wrong_fields()), ids=lambda value: str(value)[:40])
def test_a_wrong_field_is_named(served, path, name, value):
    headers = {"Content-Type": "application/json"}
    found = requests.post(served.url + path, with_field(path, name, value), headers=headers, timeout=20)
    assert found.status_code == 400, found.text
    error = found.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"].startswith(name) and (name in error["message"] or "no token" in error["message"])


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1" * 5000, "[" * 100_000, "01", "'x'", ""])
def test_what_is_not_json_is_refused(served, value):
    body = f'{{"prompt": "a", "temperature": {value}}}'.encode()
    found = requests.post(
        f"{served.url}/v1/completions", body, headers={"Content-Type": "application/json"}, timeout=20
    )
    assert_error(found, 400, "the body is not JSON|nested too deeply")


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"\xff\xfe\xfd", 400, "not JSON"),
        (b"[1]", 400, "the body is a list; send a JSON object"),
        (b'"' + b"x" * MAX_BODY + b'"', 413, str(MAX_BODY)),
        (b"x" * (20 * MAX_BODY), 413, str(MAX_BODY)),
    ],
    ids=["utf8", "list", "large", "very large"],
)
def test_bodies_that_are_refused(served, body, status, words):
    headers = {"Content-Type": "application/json"}
    try:
        found = requests.post(f"{served.url}/v1/completions", body, headers=headers, timeout=20)
    except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
        # What is far too large is cut off, and with it, at times, the answer.
        assert len(body) > 2**24
    else:
        assert_error(found, status, words)


def test_a_body_must_be_declared_as_json(served):
    """A page of another site can send anything else without asking, and so make a browser's owner compute for it."""
    found = requests.post(
        f"{served.url}/v1/completions", json.dumps(GOOD), headers={"Content-Type": "text/plain"}, timeout=20
    )
    assert_error(found, 415, "Content-Type: application/json")
    kind = {"Content-Type": "application/json; charset=utf-8"}
    assert requests.post(f"{served.url}/v1/completions", json.dumps(GOOD), headers=kind, timeout=20).ok


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/", 404, "/v1/completions"),
        ("POST", "/v1/completion", 404, "/v1/completions"),
        ("GET", "/health/", 404, "Not Found"),
        ("GET", "/v1/completions", 405, "Method Not Allowed"),
        ("DELETE", "/v1/models", 405, "Method Not Allowed"),
        ("POST", "/health", 405, "Method Not Allowed"),
    ],
)
def test_paths_and_methods(served, method, path, status, words):
    assert_error(requests.request(method, served.url + path, json=GOOD, timeout=20), status, words)


def test_an_unknown_model_is_404(served):
    found = ask(served, model="large")
    assert_error(found, 404, "no model large here; the models are: small, adapter", "model")
    assert found.json()["error"]["code"] == "model_not_found"
    with pytest.raises(openai.NotFoundError, match="no model"):
        served.client.models.retrieve("no/such")


def test_half_a_surrogate_is_repeated_in_ascii(served):
    """JSON may hold one, and UTF-8 may not."""
    assert_error(ask(served, model="\ud800"), 404, r"no model .* here", "model")
    assert_error(ask(served, **{"\ud800": 1}), 400, "", "\ud800")


def test_chat_needs_a_template(served):
    assert_error(
        ask(served, "/v1/chat/completions", model="small"), 400, "small has no chat template.*/v1/completions", "model"
    )


def test_a_prompt_longer_than_the_block_is_refused(served):
    assert ask(served, prompt="x" * (BLOCK - 1)).ok
    assert_error(ask(served, prompt="x" * BLOCK), 400, f"{BLOCK} tokens.*at most {BLOCK - 1}", "prompt")
    messages = [{"role": "user", "content": "x" * BLOCK}]
    long = ask(served, "/v1/chat/completions", messages=messages)
    assert_error(long, 400, f"tokens.*at most {BLOCK - 1}", "messages")
    assert_error(ask(served, prompt="x" * 1_000_000), 400, "1000000 tokens", "prompt")


def test_characters_that_the_tokenizer_lacks_are_named(served):
    assert_error(ask(served, model="letters", prompt="§"), 400, "'§' U\\+00A7", "prompt")


def test_a_model_that_fails_answers_500_and_the_server_goes_on(served, capfd):
    good = served.client.completions.create(model="small", prompt="a", stream=True, **ENDLESS)
    next(good)
    found = ask(served, model="broken")
    assert_error(found, 500, "the model's output is not finite")
    assert found.json()["error"]["code"] == "model_failed"
    assert_error(ask(served, model="broken", stream=True), 500, "not finite")
    assert health(served)["active"] == 1
    good.close()
    assert ask(served).ok
    wait_until_idle(served)
    assert "Traceback" not in capfd.readouterr().err


def test_a_client_that_leaves_frees_its_rows(served):
    before = health(served)["tokens"]
    with long_stream(served, n=4):
        wait_until(lambda: health(served)["active"] == 4)
    wait_until_idle(served)
    # Also one that waits for a whole answer.
    body = json.dumps(GOOD | ENDLESS | {"n": 5}).encode()
    with socket.create_connection(("127.0.0.1", served.port)) as client:
        client.sendall(post(body))
        wait_until(lambda: health(served)["active"] == 5)
    wait_until_idle(served)
    now = health(served)
    assert now["tokens"] > before and now["tokens_per_s"] > 0 and now["status"] == "ok" and now["uptime_s"] > 0


def test_a_full_queue_refuses(served):
    """64 rows and MAX_QUEUE places to wait."""
    with long_stream(served, n=64):
        wait_until(lambda: health(served)["active"] == 64)
        found = ask(served, prompt=["a"] * 2, n=64)
        assert_error(found, 429, "too many texts wait")
        assert int(found.headers["Retry-After"]) >= 1
    wait_until_idle(served)
    assert_error(ask(served, prompt=["a"] * 3, n=64), 400, "192 texts; at most 128", "prompt")
    assert all(ask(served, prompt=["a"] * 2, n=64).ok for _ in range(3))


def test_malformed_requests_do_not_disturb_a_good_client(served, capfd):
    stop, texts = threading.Event(), []

    def be_good():
        while not stop.is_set():
            texts.append(
                served.client.completions.create(model="small", prompt="A cat", seed=5, max_tokens=30).choices[0].text
            )

    expected = ask(served, seed=5, max_tokens=30).json()["choices"][0]["text"]
    thread = threading.Thread(target=be_good)
    thread.start()
    try:
        statuses = [send(served.port, *request) for request in malformed(360)]
    finally:
        stop.set()
        thread.join()
    answered = [status for status in statuses if status]
    assert len(answered) > 250 and set(answered) <= {200, 400, 404, 405, 408, 413, 415}
    assert answered.count(200) < 10  # a few are right by chance
    assert set(texts) == {expected}
    wait_until_idle(served)
    out = capfd.readouterr()
    assert "Traceback" not in out.out + out.err


def test_bad_bytes_after_the_answer(served):
    """The rest of a body that was not read: uvicorn has nothing to answer them with any more."""
    head = b"POST /nowhere HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as client:
        client.sendall(head)
        assert client.recv(1000).startswith(b"HTTP/1.1 404")
        with contextlib.suppress(ConnectionError):
            client.sendall(b"zz\r\n")
            while client.recv(1000):
                pass
    assert ask(served).ok and served.log == []
