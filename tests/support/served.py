"""Small models that are served, in a thread or by the command, and what is asked of them."""

import contextlib
import re
import subprocess
import sys
from types import SimpleNamespace

import requests
from loopback import wait_until
from malformed_requests import GOOD, GOOD_CHAT
from sampling_settings import sampling

from nanogpt.inference.open_writer import open_writers
from nanogpt.inference.writer import Writer

BLOCK = 48
ENDLESS = {"temperature": 0, "max_tokens": 60_000}
MAX_QUEUE = 64
PROMPTS = ["", "A cat", "The dog saw 日本", "It's 3 o'clock: time for tea!", "a a a a"]


def open_all(folders) -> dict[str, Writer]:
    writers = open_writers(folders["small"], [folders["adapter"]], "float32")
    return writers | {
        name: open_writers(folders[name], [], "float32")[name] for name in ("chatty", "letters", "broken")
    }


def written(writer: Writer, prompt, seed: int = 5, **changed) -> list:
    (texts,) = writer.write([prompt], sampling(**{"num_samples": 1, "max_tokens": 30} | changed), seed)
    return texts


def ask(served, path: str = "/v1/completions", **body) -> requests.Response:
    good = GOOD_CHAT if "chat" in path else GOOD
    return requests.post(served.url + path, json=good | body, timeout=60)


def health(served) -> dict:
    return requests.get(f"{served.url}/health", timeout=20).json()


def wait_until_idle(served) -> None:
    wait_until(lambda: (now := health(served))["active"] == now["waiting"] == 0, 10)


def assert_error(found: requests.Response, status: int, words: str, param: str | None = None) -> None:
    assert found.status_code == status, found.text
    error = found.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"} and found.json().keys() == {"error"}
    assert re.search(words, error["message"]) and "Traceback" not in found.text
    assert error["param"] == param
    assert error["type"] == (
        "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    )


@contextlib.contextmanager
def long_stream(served, **options):
    """The lines of a stream that lasts, without the first."""
    body = GOOD | ENDLESS | {"stream": True, **options}
    with requests.post(f"{served.url}/v1/completions", json=body, stream=True, timeout=20) as stream:
        lines = stream.iter_lines()
        next(lines)
        yield lines


@contextlib.contextmanager
def process(folders, tmp_path):
    """`python -m stages.serve` on a free port, with its first line read, and its stderr in a file."""
    command = [
        sys.executable,
        "-m",
        "stages.serve",
        "--checkpoint",
        folders["small"],
        "--port",
        "0",
        "--dtype",
        "float32",
    ]
    err = tmp_path / "stderr"
    with err.open("w") as file, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True) as child:
        try:
            line = child.stdout.readline()
            port = int(re.search(r"http://127.0.0.1:(\d+)/v1", line)[1])
            yield SimpleNamespace(child=child, line=line, port=port, url=f"http://127.0.0.1:{port}", err=err)
        finally:
            child.kill()
