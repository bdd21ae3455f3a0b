"""The training of a tokenizer in a process of its own: what it learns from, and how it ends."""

import random
import signal
import subprocess
import sys
from itertools import repeat

import psutil
import pytest
from imports import ROOT
from loopback import wait_until

from nanogpt.data.prepare import train_tokenizer as module
from nanogpt.data.prepare.train_tokenizer import choose_vocab_size, train_tokenizer
from nanogpt.data.tokens.settings import TokenizerSettings
from nanogpt.runtime.errors import UserError

BPE = TokenizerSettings("bpe", 300, "error")


def test_bpe_learns_from_the_first_bytes_alone_and_so_ends_on_endless_text(monkeypatch):
    monkeypatch.setattr(module, "SAMPLE_BYTES", 10)
    texts = iter(["abab", "éabab", "xyxyxyxy"])
    assert set(train_tokenizer(BPE, texts).pieces[256:259]) == {b"ab", b"abab", b""}
    assert next(texts) == "xyxyxyxy"
    assert b"cdcd" in train_tokenizer(BPE, repeat("cdcd cdcd")).pieces


def test_auto_is_the_vocabulary_of_a_size_that_grows_as_the_root_of_the_text():
    sizes = [choose_vocab_size(n_bytes) for n_bytes in (1, 1_100_000, 4_200_000, 17_000_000, 10**9)]
    assert sizes == [512, 2048, 4096, 8192, 16384]
    numbers = random.Random(1)
    texts = [" ".join(numbers.choices([f"{i:x}" for i in range(9999)], k=200)) for _ in range(300)]
    size = choose_vocab_size(sum(map(len, texts)))
    assert 512 < size < 2048
    auto, same = (train_tokenizer(TokenizerSettings("bpe", size, "error"), texts) for size in ("auto", size))
    assert auto.pieces == same.pieces and auto.n_tokens == size


def test_a_training_that_the_system_ends(monkeypatch):
    monkeypatch.setattr("multiprocessing.spawn._python_exe", b"/bin/false")
    with pytest.raises(UserError, match=r"ended with status 1; is there enough memory\? lower tokenizer\.vocab_size"):
        train_tokenizer(BPE, ["text"] * 100_000)


PROGRAM = """
import random, sys
from nanogpt.data.prepare.train_tokenizer import train_tokenizer
from nanogpt.data.tokens.settings import TokenizerSettings
from nanogpt.runtime import process

def texts():
    for seed in range(100):
        yield random.Random(seed).randbytes(100_000).hex()
    print("read", flush=True)
    while sys.argv[1] == "reading":
        yield "text"

process.run_stage(lambda: train_tokenizer(TokenizerSettings("bpe", 2**20, "error"), texts()))
"""


@pytest.mark.parametrize("phase", ["reading", "merging"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_both_processes(phase, number):
    """Uninterrupted, reading would take minutes, and merging too."""
    command = [sys.executable, "-c", PROGRAM, phase]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "read\n"
        children = psutil.Process(process.pid).children()
        process.send_signal(number)
        error = process.communicate(timeout=10)[1]
    assert process.returncode == (-9 if number == signal.SIGKILL else 130)
    assert "Traceback" not in error
    wait_until(lambda: not any(child.is_running() for child in children))
