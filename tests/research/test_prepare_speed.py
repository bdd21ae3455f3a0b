import itertools
import json
import sys

import pytest
from imports import ROOT

import stages.prepare_speed
from nanogpt.research import prepare_speed
from nanogpt.runtime.errors import UserError

TEXTS = ["One story, short.", "Ünd another one."]


def test_texts_repeated_to_size_are_all_different():
    texts = list(prepare_speed.repeat_texts(TEXTS, 1000))
    assert texts[:4] == [*TEXTS, f"1. {TEXTS[0]}", f"1. {TEXTS[1]}"]
    assert len(set(texts)) == len(texts)
    assert 1000 <= sum(len(text.encode()) for text in texts) < 1030
    assert list(itertools.islice(prepare_speed.repeat_texts(iter(TEXTS), 10), 5)) == TEXTS[:1]
    with pytest.raises(UserError, match="no text"):
        list(prepare_speed.repeat_texts([], 10))


@pytest.mark.slow
def test_rates_and_their_ratio(tmp_path, monkeypatch, capsys):
    (tmp_path / "own.txt").write_text("\n\n".join(TEXTS * 50), "utf-8")
    monkeypatch.chdir(ROOT)
    flags = ["--path", str(tmp_path / "own.txt"), "--megabytes", "1", "--kind", "byte", "--num-iters", "1"]
    monkeypatch.setattr(sys, "argv", ["prepare_speed.py", *flags, "--out", str(tmp_path / "x.json")])
    stages.prepare_speed.main()
    assert "megabytes                     1.00" in capsys.readouterr().out
    found = json.loads((tmp_path / "x.json").read_text())
    assert found["prepare_over_tiktoken"] == pytest.approx(
        found["prepare_mb_per_s"] / found["tiktoken_mb_per_s"], rel=1e-4
    )
