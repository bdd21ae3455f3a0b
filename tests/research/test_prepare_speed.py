import itertools
import os
import subprocess
import sys

import pytest
from imports import ROOT

from nanogpt.data.sources import files
from nanogpt.data.sources.document import DataSettings
from nanogpt.data.tokens.settings import TokenizerSettings
from nanogpt.research import prepare_speed
from nanogpt.runtime.errors import UserError

TEXTS = ["One story, short.", "Ünd another one."]


def read_corpus(path):
    return files.load(DataSettings("files", None, 0.1, str(path), "*", "text"), files.FilesSettings(strict=True))


def test_texts_repeated_to_size_are_all_different():
    texts = list(prepare_speed.repeat_texts(TEXTS, 1000))
    assert texts[:4] == [*TEXTS, f"1. {TEXTS[0]}", f"1. {TEXTS[1]}"]
    assert len(set(texts)) == len(texts)
    assert 1000 <= sum(len(text.encode()) for text in texts) < 1030
    assert list(itertools.islice(prepare_speed.repeat_texts(iter(TEXTS), 10), 5)) == TEXTS[:1]
    with pytest.raises(UserError, match="no text"):
        list(prepare_speed.repeat_texts([], 10))


@pytest.mark.slow
def test_rates_and_their_ratio(tmp_path):
    (tmp_path / "own.txt").write_text("\n\n".join(f"{text} {i}" for i in range(300) for text in TEXTS), "utf-8")
    figures = prepare_speed.measure_prepare(
        read_corpus(tmp_path / "own.txt"), TokenizerSettings("bpe", 300, "error"), 1, 1
    )
    assert figures["prepare_over_tiktoken"] == pytest.approx(figures["prepare_mb_per_s"] / figures["tiktoken_mb_per_s"])
    assert figures["megabytes"] == 1
    with pytest.raises(UserError, match="not an encoding of tiktoken"):
        prepare_speed.measure_prepare(read_corpus(tmp_path / "own.txt"), TokenizerSettings("char", 300, "error"), 1, 1)


@pytest.mark.slow
def test_from_the_command_line(tmp_path):
    (tmp_path / "own.txt").write_text("\n\n".join(TEXTS * 50), "utf-8")
    command = [sys.executable, "-m", "stages.prepare_speed", "--path", str(tmp_path / "own.txt")]
    command += ["--megabytes", "1", "--kind", "byte", "--num-iters", "1"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "prepare_over_tiktoken" in done.stdout
