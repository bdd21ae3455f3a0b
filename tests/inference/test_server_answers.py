import asyncio
import json
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
import requests
import torch
from malformed_requests import GOOD, GOOD_CHAT
from sampling_settings import sampling
from served import (
    BLOCK,
    PROMPTS,
    ask,
    written,
)

from nanogpt.inference.writer import Writer


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
    expected = [
        text.written for row in alone["small"].write(prompts, sampling(num_samples=2, max_tokens=30), 5) for text in row
    ]
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


def test_asynchronous_clients_share_the_steps(served):
    """All the rows of 32 clients are in the engine at once."""
    most = 0

    async def run():
        nonlocal most
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
            asked = [
                client.completions.create(model="small", prompt="a", seed=i, max_tokens=400, temperature=0)
                for i in range(32)
            ]
            tasks = asyncio.gather(*asked)
            while not tasks.done():
                most = max(most, served.worker.counts()[0])
                await asyncio.sleep(0.005)
            assert len(await tasks) == 32

    asyncio.run(run())
    assert most > 16
