import asyncio
import contextlib
import copy
import json
import logging
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import adapters
import openai
import psutil
import pytest
import requests
import torch
from loopback import wait_until
from malformed_requests import GOOD, GOOD_CHAT, malformed, post, send, with_field, wrong_fields

from nanogpt.checkpoint.folder import save_checkpoint
from nanogpt.inference.server import MAX_BODY, Server, describe_start, listen
from nanogpt.inference.settings import Sampling
from nanogpt.inference.worker import Worker
from nanogpt.inference.writer import Writer
from nanogpt.runtime.errors import UserError
from stages.serve import load_writers

BLOCK = 48
FP32 = ["--dtype", "float32"]
ENDLESS = {"temperature": 0, "max_tokens": 60_000}
MAX_QUEUE = 64
PROMPTS = ["", "A cat", "The dog saw 日本", "It's 3 o'clock: time for tea!", "a a a a"]


@pytest.fixture(scope="module")
def folders(tiny, byte, char, tmp_path_factory):
    """Models: small (bytes), an adapter on it, chatty (answers messages), letters (characters), broken (not finite)."""
    folder = tmp_path_factory.mktemp("served")
    shape = {"block_size": BLOCK, "n_layer": 2}
    small = tiny("optimized", **shape)
    small.lm_head.weight.data[byte.eot] = 0  # never the likeliest, so that a greedy text does not end by itself
    saved = adapters.saved(folder, small, byte)
    found = {"small": saved.base.rename(folder / "small"), "adapter": saved.adapter}
    chat = copy.copy(byte)
    chat.chat = True
    broken = tiny("base", **shape)
    broken.lm_head.weight.data.fill_(3e38)  # products overflow
    models = {
        "chatty": (tiny("base", seed=3, **shape), chat),
        "letters": (tiny("optimized", seed=4, vocab_size=char.vocab_size, **shape), char),
        "broken": (broken, byte),
    }
    for name, (model, tok) in models.items():
        save_checkpoint(folder / name, model, tok)
        found[name] = folder / name
    return {name: str(path) for name, path in found.items()}


def open_writers(folders) -> dict[str, Writer]:
    writers = load_writers(folders["small"], [folders["adapter"]], "float32")
    return writers | {
        name: load_writers(folders[name], [], "float32")[name] for name in ("chatty", "letters", "broken")
    }


@pytest.fixture(scope="module")
def alone(folders):
    """The same models, to write with them directly."""
    return open_writers(folders)


@pytest.fixture(scope="module")
def served(folders):
    """A server in a thread: url, worker and an OpenAI client."""
    listening = listen("127.0.0.1", 0)
    server = Server(Worker(open_writers(folders), MAX_QUEUE))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    port = listening.getsockname()[1]
    thread.start()
    url, log = f"http://127.0.0.1:{port}", []
    handler = logging.Handler()
    handler.emit = lambda record: log.append(record.getMessage())
    for name in ("uvicorn.error", "asyncio"):
        logging.getLogger(name).addHandler(handler)
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    yield SimpleNamespace(url=url, port=port, worker=server.worker, client=client, log=log)
    client.close()
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()
    assert log == []  # neither a traceback


def settings(**changed) -> Sampling:
    values = {"num_samples": 1, "max_tokens": 30, "temperature": 1.0, "top_k": None, "top_p": None, "min_p": None}
    return Sampling(**values | {"repetition_penalty": 1.0, "stop": []} | changed)


def written(writer: Writer, prompt, seed: int = 5, **changed) -> list:
    (texts,) = writer.write([prompt], settings(**changed), seed)
    return texts


def ask(served, path: str = "/v1/completions", **body) -> requests.Response:
    good = GOOD_CHAT if "chat" in path else GOOD
    return requests.post(served.url + path, json=good | body, timeout=60)


def health(served) -> dict:
    return requests.get(f"{served.url}/health", timeout=20).json()


def wait_until_idle(served) -> None:
    wait_until(lambda: (now := health(served))["active"] == now["waiting"] == 0, 10)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0}, {}, {"top_k": 5}, {"top_p": 0.7}, {"min_p": 0.1, "temperature": 1.5},
        {"repetition_penalty": 1.4, "temperature": 0.0},
    ],
    ids=str,
)  # fmt: skip
def test_completions_are_what_the_writer_writes(served, alone, options):
    extra = {name: options[name] for name in ("top_k", "min_p", "repetition_penalty") if name in options}
    plain = {name: value for name, value in options.items() if name not in extra}
    for prompt in PROMPTS:
        found = served.client.completions.create(
            model="small", prompt=prompt, max_tokens=30, seed=5, n=3, extra_body=extra, **plain
        )
        texts = written(alone["small"], prompt, num_samples=3, **options)
        assert [choice.text for choice in found.choices] == [text.written for text in texts]
        assert [choice.finish_reason for choice in found.choices] == [text.finish for text in texts]
        assert [choice.index for choice in found.choices] == [0, 1, 2]
        completion = sum(len(text.tokens) for text in texts)
        prompt_tokens = 1 + len(prompt.encode())
        assert found.usage.prompt_tokens == prompt_tokens and found.usage.completion_tokens == completion
        assert found.usage.total_tokens == prompt_tokens + completion
    assert found.object == "text_completion" and found.model == "small" and found.id.startswith("cmpl-")


def test_chat_is_what_the_writer_answers(served, alone):
    messages = [{"role": "system", "content": "Short."}, {"role": "user", "content": "A cat?"}]
    found = served.client.chat.completions.create(model="chatty", messages=messages, max_tokens=30, seed=5, n=2)
    texts = written(alone["chatty"], messages, num_samples=2)
    assert [choice.message.content for choice in found.choices] == [text.written for text in texts]
    assert {choice.message.role for choice in found.choices} == {"assistant"}
    assert found.object == "chat.completion" and found.usage.prompt_tokens == texts[0].prompt_tokens
    parts = [{"role": "developer", "content": [{"type": "text", "text": "Sho"}, {"type": "text", "text": "rt."}]}]
    same = served.client.chat.completions.create(
        model="chatty", messages=[*parts, messages[1]], max_completion_tokens=30, seed=5, n=2
    )
    assert [choice.message for choice in same.choices] == [choice.message for choice in found.choices]


def test_lengths_without_max_tokens(served):
    for seed in range(20):  # some end by themselves
        found = ask(served, max_tokens=None, seed=seed).json()
        reason, tokens = found["choices"][0]["finish_reason"], found["usage"]["completion_tokens"]
        assert tokens == 16 if reason == "length" else tokens <= 16
        found = ask(served, "/v1/chat/completions", max_tokens=None, seed=seed).json()
        reason, usage = found["choices"][0]["finish_reason"], found["usage"]
        assert usage["total_tokens"] == BLOCK if reason == "length" else usage["total_tokens"] <= BLOCK


def test_texts_may_be_longer_than_the_block(served, alone):
    texts = {seed: written(alone["small"], "A cat", seed, max_tokens=3 * BLOCK)[0] for seed in range(20)}
    seed, text = next((seed, text) for seed, text in texts.items() if text.finish == "length")
    found = ask(served, max_tokens=3 * BLOCK, seed=seed).json()
    assert found["choices"][0]["text"] == text.written and found["usage"]["completion_tokens"] == 3 * BLOCK


@pytest.mark.parametrize("usage", [False, True])
def test_streamed_pieces_join_to_the_text(served, alone, usage):
    options = {"stream_options": {"include_usage": True}} if usage else {}
    for seed in range(10):
        chunks = list(
            served.client.completions.create(
                model="small", prompt="A cat", max_tokens=40, n=3, seed=seed, stream=True, **options
            )
        )
        texts = written(alone["small"], "A cat", seed, num_samples=3, max_tokens=40)
        *chunks, last = chunks if usage else [*chunks, None]
        for i, text in enumerate(texts):
            own = [choice for chunk in chunks for choice in chunk.choices if choice.index == i]
            assert "".join(choice.text for choice in own) == text.written
            assert [choice.finish_reason for choice in own] == [None] * (len(own) - 1) + [text.finish]
        if usage:
            assert last.choices == [] and last.usage.completion_tokens == sum(len(text.tokens) for text in texts)
            assert all(chunk.usage is None for chunk in chunks)


def test_streamed_chat_joins_to_the_answer(served, alone):
    chunks = list(
        served.client.chat.completions.create(
            model="chatty", messages=GOOD_CHAT["messages"], max_tokens=30, seed=5, n=2, stream=True
        )
    )
    for i, text in enumerate(written(alone["chatty"], GOOD_CHAT["messages"], num_samples=2)):
        own = [choice for chunk in chunks for choice in chunk.choices if choice.index == i]
        assert own[0].delta.role == "assistant"
        assert "".join(choice.delta.content for choice in own) == text.written
        assert [choice.finish_reason for choice in own] == [None] * (len(own) - 1) + [text.finish]
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"} and len({chunk.id for chunk in chunks}) == 1


def test_a_stream_is_events_that_end_with_done(served):
    with requests.post(f"{served.url}/v1/completions", json=GOOD | {"stream": True}, stream=True, timeout=20) as found:
        assert found.headers["content-type"].startswith("text/event-stream")
        events = found.content.decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(json.loads(event.removeprefix("data: "))["choices"] for event in events[:-2])


def test_a_text_does_not_depend_on_what_is_written_beside_it(served, alone):
    def one(seed: int) -> tuple[str, str]:
        prompt, options = PROMPTS[seed % len(PROMPTS)], {"max_tokens": 20 + seed % 30, "temperature": seed % 3 / 2}
        asked = GOOD | {"prompt": prompt, "seed": seed, **options}
        stream = served.client.completions.create(model="small", stream=True, **asked)
        return "".join(chunk.choices[0].text for chunk in stream), (prompt, seed, options)

    with ThreadPoolExecutor(24) as pool:
        found = list(pool.map(one, range(64)))
    for text, (prompt, seed, options) in found:
        assert text == written(alone["small"], prompt, seed, **options)[0].written
    assert len({text for text, _ in found}) > 32


def test_several_prompts_and_token_ids(served, alone):
    prompts = ["A cat", "The dog", "a"]
    ids = [list(prompt.encode()) for prompt in prompts]
    expected = [text.written for row in alone["small"].write(prompts, settings(num_samples=2), 5) for text in row]
    for form in (prompts, ids):
        found = ask(served, prompt=form, n=2, seed=5, max_tokens=30).json()
        assert [choice["text"] for choice in found["choices"]] == expected
    assert found["usage"]["prompt_tokens"] == 3 + sum(map(len, ids))
    one = ask(served, prompt=ids[0], n=2, seed=5, max_tokens=30).json()
    assert [choice["text"] for choice in one["choices"]] == expected[:2]


def test_without_a_seed_texts_differ(served):
    assert len({ask(served, max_tokens=30, seed=None).json()["choices"][0]["text"] for _ in range(4)}) > 1


def test_stop_strings_end_a_text_before_them(served, alone):
    (text,) = written(alone["letters"], "The cat", temperature=0.0, max_tokens=60)
    assert len(text.written) > 20
    for stop in (text.written[7:10], ["nowhere at all", text.written[12:14]]):
        first = min(
            place for one in ([stop] if isinstance(stop, str) else stop) if (place := text.written.find(one)) >= 0
        )
        asked = {"model": "letters", "prompt": "The cat", "temperature": 0, "max_tokens": 60, "stop": stop}
        found = served.client.completions.create(**asked, logprobs=1)
        choice = found.choices[0]
        assert choice.text == text.written[:first] and choice.finish_reason == "stop"
        # Neither are the tokens of the stop string reported.
        assert "".join(choice.logprobs.tokens) == choice.text
        chunks = list(served.client.completions.create(**asked, stream=True, logprobs=1))
        assert "".join(chunk.choices[0].text for chunk in chunks) == choice.text
        tokens = [token for chunk in chunks if (kept := chunk.choices[0].logprobs) for token in kept.tokens]
        assert tokens == choice.logprobs.tokens


@torch.no_grad()
def reference_logprobs(writer: Writer, folder: str, ids: list[int], chosen: list[int]) -> torch.Tensor:
    """(len(chosen), n_tokens) by full passes of the model."""
    from nanogpt.checkpoint.folder import load_checkpoint

    model, tok = load_checkpoint(folder)
    logits = model(torch.tensor([[tok.eot, *ids, *chosen]]))[0, len(ids) : len(ids) + len(chosen), : tok.n_tokens]
    return logits.log_softmax(dim=1)


@pytest.mark.parametrize("top", [0, 1, 5])
def test_logprobs_of_completions(served, alone, folders, top):
    asked = {"model": "letters", "prompt": "The cat", "max_tokens": 20, "seed": 2}
    found = served.client.completions.create(**asked, logprobs=top).choices[0]
    tok = alone["letters"].tok
    chosen = tok.encode(found.text)
    expected = reference_logprobs(alone["letters"], folders["letters"], tok.encode("The cat"), chosen)
    logprobs = found.logprobs
    assert logprobs.tokens == [tok.pieces[id].decode() for id in chosen] and len(chosen) > 5
    assert logprobs.token_logprobs == pytest.approx([expected[i, id].item() for i, id in enumerate(chosen)], abs=1e-4)
    assert logprobs.text_offset == list(range(len(chosen)))
    for i, id in enumerate(chosen):
        likeliest = {*expected[i].topk(top).indices.tolist(), id}
        values = {tok.pieces[one].decode() or "<|endoftext|>": expected[i, one].item() for one in likeliest}
        assert logprobs.top_logprobs[i] == pytest.approx(values, abs=1e-4)
    parts = [chunk.choices[0] for chunk in served.client.completions.create(**asked, logprobs=top, stream=True)]
    joined = [value for part in parts if part.logprobs for value in part.logprobs.token_logprobs]
    assert joined == pytest.approx(logprobs.token_logprobs, abs=1e-5)
    assert [place for part in parts if part.logprobs for place in part.logprobs.text_offset] == logprobs.text_offset


@pytest.mark.parametrize("top", [None, 0, 20])
def test_logprobs_of_answers(served, alone, folders, top):
    asked = {"model": "chatty", "messages": GOOD_CHAT["messages"], "max_tokens": 20, "logprobs": True}
    if top is not None:
        asked["top_logprobs"] = top
    for seed in range(3):
        found = served.client.chat.completions.create(**asked, seed=seed).choices[0]
        content = found.logprobs.content
        data = b"".join(bytes(token.bytes) for token in content)
        assert data.decode(errors="replace") == found.message.content and data
        ids = alone["chatty"].encode(GOOD_CHAT["messages"])
        expected = reference_logprobs(alone["chatty"], folders["chatty"], ids, list(data))  # a token is a byte
        assert [token.logprob for token in content] == pytest.approx(
            [expected[i, id].item() for i, id in enumerate(data)], abs=1e-4
        )
        for i, token in enumerate(content):
            values = [one.logprob for one in token.top_logprobs]
            assert values == pytest.approx(expected[i].topk(top or 0).values.tolist(), abs=1e-4)
        parts = [
            chunk.choices[0].logprobs
            for chunk in served.client.chat.completions.create(**asked, seed=seed, stream=True)
        ]
        assert [token.bytes for part in parts if part for token in part.content] == [token.bytes for token in content]


def test_models_are_chosen_by_name(served, alone):
    names = ["small", "adapter", "chatty", "letters", "broken"]
    assert [model.id for model in served.client.models.list()] == names
    assert served.client.models.retrieve("adapter").id == "adapter"
    texts = [
        served.client.completions.create(model=name, prompt="A cat", seed=5, max_tokens=30).choices[0].text
        for name in names[:4]
    ]
    assert texts == [written(alone[name], "A cat")[0].written for name in names[:4]]
    assert texts[0] != texts[1]
    first = ask(served, seed=5, max_tokens=30).json()
    assert first["model"] == "small" and first["choices"][0]["text"] == texts[0]


def assert_error(found: requests.Response, status: int, words: str, param: str | None = None) -> None:
    assert found.status_code == status, found.text
    error = found.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"} and found.json().keys() == {"error"}
    assert re.search(words, error["message"]) and "Traceback" not in found.text
    assert error["param"] == param
    assert error["type"] == (
        "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    )


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
    except requests.ConnectionError:  # what is far too large is cut off
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


def test_harmless_parameters_are_ignored(served):
    plain = ask(served, seed=5, max_tokens=30).json()["choices"]
    extra = {"user": "me", "echo": False, "best_of": 1, "logit_bias": {}, "frequency_penalty": 0, "suffix": None}
    assert ask(served, seed=5, max_tokens=30, **extra).json()["choices"] == plain
    extra = {"store": True, "metadata": {"a": "b"}, "response_format": {"type": "text"}, "tools": [], "n": None}
    assert ask(served, "/v1/chat/completions", seed=5, **extra).ok


@pytest.mark.parametrize("top_p", [0, 1e-12])
@pytest.mark.parametrize("temperature", [1e-300, 1e-5, 1e-4, 2])
def test_the_smallest_numbers_are_greedy(served, alone, temperature, top_p):
    found = ask(served, temperature=temperature, top_p=top_p, max_tokens=20, repetition_penalty=10, logprobs=0)
    assert found.json()["choices"][0]["text"] == written(
        alone["small"], "A cat", temperature=0.0, max_tokens=20, repetition_penalty=10.0
    )[0].written  # fmt: skip


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


@contextlib.contextmanager
def long_stream(served, **options):
    """The lines of a stream that lasts, without the first."""
    body = GOOD | ENDLESS | {"stream": True, **options}
    with requests.post(f"{served.url}/v1/completions", json=body, stream=True, timeout=20) as stream:
        lines = stream.iter_lines()
        next(lines)
        yield lines


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
    assert len(texts) > 3 and set(texts) == {expected}
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


def test_asynchronous_clients_share_the_steps(served):
    """All the rows of 32 clients are in the engine at once."""
    most = 0

    async def run():
        nonlocal most
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
            asked = [client.completions.create(model="small", prompt="a", seed=i, max_tokens=400) for i in range(32)]
            tasks = asyncio.gather(*asked)
            while not tasks.done():
                most = max(most, served.worker.counts()[0])
                await asyncio.sleep(0.005)
            assert len(await tasks) == 32

    asyncio.run(run())
    assert most > 16


def test_the_address(alone):
    with listen("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        line = describe_start(alone, listening)
        assert line.startswith(
            f"serving small, adapter, chatty, letters, broken at http://127.0.0.1:{port}/v1; try: curl "
        )
        with pytest.raises(UserError, match=f"127.0.0.1 port {port}: Address already in use; choose another --port"):
            listen("127.0.0.1", port)
    with pytest.raises(UserError, match=r"192.0.2.1 port 0: .*; choose another --port or --host"):
        listen("192.0.2.1", 0)


def test_two_models_of_one_name(folders):
    with pytest.raises(UserError, match="two models are called adapter; rename"):
        load_writers(None, [folders["adapter"]] * 2, "auto")


@contextlib.contextmanager
def process(folders, tmp_path):
    """`python -m stages.serve` on a free port, with its first line read, and its stderr in a file."""
    command = [sys.executable, "-m", "stages.serve", "--checkpoint", folders["small"], "--port", "0", *FP32]
    err = tmp_path / "stderr"
    with err.open("w") as file, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True) as child:
        try:
            line = child.stdout.readline()
            port = int(re.search(r"http://127.0.0.1:(\d+)/v1", line)[1])
            yield SimpleNamespace(child=child, line=line, port=port, url=f"http://127.0.0.1:{port}", err=err)
        finally:
            child.kill()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_server(folders, tmp_path, number):
    with process(folders, tmp_path) as served:
        command = served.line.partition("try: ")[2]
        done = subprocess.run(command.replace("curl", "curl -s"), shell=True, capture_output=True, text=True)
        assert json.loads(done.stdout)["model"] == "small"
        with long_stream(served, max_tokens=300) as lines:
            served.child.send_signal(number)
            assert list(lines)[-2:] == [b"data: [DONE]", b""]  # it may end
        assert served.child.wait(20) == 0
        assert served.err.read_text() == ""
        with pytest.raises(requests.ConnectionError):
            health(served)


@pytest.mark.slow
def test_requests_that_run_too_long_end_with_an_error(folders, tmp_path):
    with process(folders, tmp_path) as served, contextlib.ExitStack() as stack:
        lines = stack.enter_context(long_stream(served, n=8))
        stalled = stack.enter_context(socket.create_connection(("127.0.0.1", served.port)))
        stalled.sendall(post(json.dumps(GOOD).encode())[:-3])  # and the rest never comes
        start = time.monotonic()
        served.child.send_signal(signal.SIGTERM)
        *_, last, end = lines
        assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "stopping" and end == b""
        assert served.child.wait(40) == 0 and time.monotonic() - start > 4
        assert "Traceback" not in served.err.read_text()


@pytest.mark.slow
def test_a_second_ctrl_c_does_not_wait(folders, tmp_path):
    with process(folders, tmp_path) as served, long_stream(served, n=8) as lines:
        start = time.monotonic()
        served.child.send_signal(signal.SIGINT)
        time.sleep(0.5)
        served.child.send_signal(signal.SIGINT)
        assert b"the server is stopping" in list(lines)[-2]
        assert served.child.wait(20) == 0 and time.monotonic() - start < 4
        assert served.err.read_text() == ""


@pytest.mark.slow
def test_a_port_in_use_is_one_line(folders, tmp_path):
    with listen("127.0.0.1", 0) as listening:
        port = str(listening.getsockname()[1])
        command = [sys.executable, "-m", "stages.serve", "--checkpoint", "no/such/model", "--port", port]
        done = subprocess.run(command, capture_output=True, text=True)
    message = f"error: 127.0.0.1 port {port}: Address already in use; choose another --port or --host\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", message)


@pytest.mark.parametrize("flags", [["--port", "70000"], ["--max-queue", "-1"], ["--port", "x"], ["--dtype", "fp4"]])
def test_wrong_flags(flags):
    done = subprocess.run([sys.executable, "-m", "stages.serve", *flags], capture_output=True, text=True)
    assert done.returncode == 1 and re.fullmatch(r"error: .*\n", done.stderr) and flags[0] in done.stderr


@pytest.mark.slow
def test_malformed_requests_leave_no_memory_behind(folders, tmp_path):
    def memory() -> int:
        return psutil.Process(served.child.pid).memory_info().rss

    with process(folders, tmp_path) as served:
        for request in malformed(200, seed=1):
            send(served.port, *request)
        before = memory()
        statuses = {send(served.port, *request) for request in malformed(1000, seed=2)}
        assert statuses <= {None, 200, 400, 404, 405, 408, 413, 415}
        wait_until_idle(served)
        assert memory() < 1.05 * before
        served.child.send_signal(signal.SIGTERM)
        assert served.child.wait(20) == 0
        assert served.err.read_text() == ""
