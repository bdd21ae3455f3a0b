"""Decoding at length: formats, streams and contexts, beside llama.cpp, and what a person waits for."""

import contextlib
import importlib.util
import itertools
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import requests
import torch

from nanogpt.benchmark.decoding import GREEDY, PROMPT, TOKENS, Writing, build_writing, time_writing
from nanogpt.benchmark.settings import BenchmarkSettings
from nanogpt.benchmark.timing import Steps, time_in_turns
from nanogpt.checkpoint.folder import save_checkpoint
from nanogpt.checkpoint.gguf_file import save_gguf
from nanogpt.data.tokens.tokenizer import BYTES, BytePairs
from nanogpt.inference.decoder import cache_mib
from nanogpt.inference.products import fastest, supported
from nanogpt.inference.writer import Writer
from nanogpt.model.build import ARCHITECTURES, build_model
from nanogpt.runtime.cores import usable_cores
from nanogpt.runtime.errors import UserError

STREAMS = (1, 8, 16, 64)
CLIENTS, ASKED = 32, 100  # concurrent requests, and the tokens that each asks for
STARTS = 3


def measure_formats(settings: BenchmarkSettings) -> dict[str, dict[str, float]]:
    """Tokens a second by architecture and format of weights, for several numbers of texts, beside transformers.

    The rows `… cache` have the MiB that a text takes.
    """
    found = {}
    for arch in ARCHITECTURES:
        ways = {
            f"{dtype}/{rows}": Writing("nanogpt", arch, dtype, rows)
            for dtype, rows in itertools.product(supported(), STREAMS)
        }
        ways |= {f"transformers/{rows}": Writing("transformers", arch, "bfloat16", rows) for rows in STREAMS}
        rates: dict[str, float] = {}
        for rows in STREAMS:  # those of one number in turns
            rates |= time_writing({name: way for name, way in ways.items() if way.rows == rows}, settings)
        for name, rate in rates.items():
            dtype, rows = name.split("/")
            found.setdefault(f"{arch} {dtype}", {})[rows] = rate
        found[f"{arch} cache"] = {"mib": cache_mib(settings.config(arch))}
    return found


def measure_llamacpp(settings: BenchmarkSettings) -> dict[str, float]:
    """One text by llama.cpp and by this project, on the same weights in 16 and in 8 bits, in turns: rates and ratios.

    The files are those of `save_gguf`. Raises UserError where the package llama-cpp-python is not installed.
    """
    if importlib.util.find_spec("llama_cpp") is None:
        raise UserError("llama.cpp is not here; `pip install llama-cpp-python` compiles it, in ten minutes")
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for arch in ARCHITECTURES:
            model, tok = build_reference(settings, arch)
            files = {dtype: Path(folder, f"{arch}-{dtype}.gguf") for dtype in ("float16", "q8_0")}
            for dtype, file in files.items():
                save_gguf(file, model, tok, dtype)
            entries = {dtype: partial(build_llamacpp, dtype, file) for dtype, file in files.items()}
            for name, dtype in (("own_16", fastest()), ("own_int8", "int8")):
                entries[name] = partial(build_writing, name, Writing("nanogpt", arch, dtype, 1), settings)
            rates = {name: TOKENS / s for name, s in time_in_turns(entries, settings.num_iters).medians.items()}
            figures |= {f"{arch}_{name}_tokens_per_s": rate for name, rate in rates.items()}
            figures[f"{arch}_one_stream_over_llamacpp_f16"] = rates["own_16"] / rates["float16"]
            figures[f"{arch}_one_stream_int8_over_llamacpp_f16"] = rates["own_int8"] / rates["float16"]
            figures[f"{arch}_one_stream_int8_over_llamacpp_q8_0"] = rates["own_int8"] / rates["q8_0"]
    return figures


def build_llamacpp(name: str, file: Path) -> Steps:
    """Build a step of llama.cpp as `build_writing` does.

    Without its packing of int8 weights for AMX, with which llama-cpp-python 0.3.36 crashed on a virtual machine.
    """
    from llama_cpp import Llama, llama_cpp

    defaults = llama_cpp.llama_model_default_params()
    defaults.use_extra_bufts = False
    llama_cpp.llama_model_default_params = lambda: defaults  # of this process; `Llama` takes no such argument
    threads = usable_cores()
    model = Llama(str(file), n_ctx=256, n_threads=threads, n_threads_batch=threads, verbose=False)
    numbers = itertools.count()

    def step() -> None:
        generator = torch.Generator().manual_seed(next(numbers))
        prompt = torch.randint(model.n_vocab(), (PROMPT,), generator=generator).tolist()
        model.reset()
        for _ in itertools.islice(model.generate(prompt, temp=0.0), TOKENS):
            pass

    return {name: step}


def measure_use(settings: BenchmarkSettings) -> dict[str, float]:
    """What a person waits for at the reference shape: the first token of `stages.sample`, and a server under load.

    `first_token_s`: from the start of the command to the first character that the model adds, the best of STARTS.
    `over_engine_32`: tokens a second of a server with CLIENTS clients at once, which wait for whole answers, over those
    of the writer alone with as many texts, both in 16 bits; `streamed_over_engine_32` with an event for each token. The
    clients run on the same cores, and read the events there. `beyond_block_over_within`: tokens a second of one text
    from the end of the block on, the second to fourth block's worth, over those before it.
    """
    with tempfile.TemporaryDirectory() as folder:
        model, tok = build_reference(settings, "optimized")
        save_checkpoint(Path(folder, "reference"), model, tok)
        first = min(_time_first_token(Path(folder, "reference")) for _ in range(STARTS))
        writer = Writer(model, tok)
        beyond = statistics.median(_beyond_over_within(writer, turn) for turn in range(STARTS))
        alone, served, streamed = [], [], []
        with _served(Path(folder, "reference")) as url:
            for turn in range(2 + settings.num_iters):  # two to warm up, in turns
                alone.append(_rate(partial(write_alone, writer, turn)))
                served.append(_rate(partial(ask_all, url, turn, False)))
                streamed.append(_rate(partial(ask_all, url, turn, True)))
    engine, server, events = (statistics.median(rates[2:]) for rates in (alone, served, streamed))
    return {
        "first_token_s": first, "engine_32_tokens_per_s": engine, "server_32_tokens_per_s": server,
        "over_engine_32": server / engine, "streamed_over_engine_32": events / engine,
        "beyond_block_over_within": beyond,
    }  # fmt: skip


def build_reference(settings: BenchmarkSettings, arch: str) -> tuple[torch.nn.Module, BytePairs]:
    """A model of the benchmark's shape with random weights, and byte pairs of as many tokens."""
    torch.manual_seed(0)
    model = build_model(settings.config(arch)).eval()
    pairs = [a + b for a in BYTES for b in BYTES]
    return model, BytePairs("bpe", [*BYTES, *pairs][: settings.vocab_size - 1])


def write_alone(writer: Writer, turn: int) -> int:
    """Write CLIENTS texts at once; return how many tokens."""
    texts = [writer.add(_prompt(turn, n), replace(GREEDY, max_tokens=ASKED), 0, n) for n in range(CLIENTS)]
    while writer.step():
        pass
    return sum(len(text.tokens) for text in texts)


def _beyond_over_within(writer: Writer, turn: int) -> float:
    block, times = writer.engine.decoder.config.block_size, []
    numbers = itertools.count()
    while len(times) <= 4 * block:  # some texts of random weights end by themselves
        text = writer.add(_prompt(turn, next(numbers)), replace(GREEDY, max_tokens=4 * block), 0)
        times = [time.perf_counter()]
        while writer.step():
            times.append(time.perf_counter())
    within = block - text.prompt_tokens
    return (times[within] - times[0]) / within * (len(times) - 1 - within) / (times[-1] - times[within])


def ask_all(url: str, turn: int, streamed: bool) -> int:
    """Ask a server for CLIENTS texts at once; return how many tokens."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        return sum(pool.map(lambda n: _ask(url, _prompt(turn, n), streamed), range(CLIENTS)))


def _ask(url: str, prompt: list[int], streamed: bool) -> int:
    body = {"prompt": prompt, "max_tokens": ASKED, "temperature": 0, "stream": streamed}
    if streamed:
        body["stream_options"] = {"include_usage": True}
    with requests.post(f"{url}/completions", json=body, stream=streamed, timeout=120) as answer:
        if not streamed:
            return answer.json()["usage"]["completion_tokens"]
        lines = [line for line in answer.iter_lines() if line.startswith(b"data: {")]
    return json.loads(lines[-1].removeprefix(b"data: "))["usage"]["completion_tokens"]


def _prompt(turn: int, n: int) -> list[int]:
    generator = torch.Generator().manual_seed(1000 * turn + n)
    return torch.randint(256, (PROMPT,), generator=generator).tolist()


def _rate(write: Callable[[], int]) -> float:
    start = time.perf_counter()
    return write() / (time.perf_counter() - start)


@contextlib.contextmanager
def _served(folder: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "stages.serve", "--checkpoint", str(folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            yield re.search(r"http://\S+/v1", server.stdout.readline())[0]
        finally:
            server.terminate()


def _time_first_token(folder: Path) -> float:
    command = [sys.executable, "-m", "stages.sample", "--checkpoint", str(folder), "--max-tokens", "20"]
    command += ["--prompt", "abcdefgh", "--num-samples", "1"]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        process.stdout.read(len("abcdefgh") + 1)
        elapsed = time.perf_counter() - start
        process.communicate()
    return elapsed
