import json
from pathlib import Path

import numpy as np
import pytest

from nanogpt.checkpoint.folder import load_checkpoint
from nanogpt.model.score import score_documents


def test_models_on_a_text_of_ones_own(project, run_stage, capsys):
    Path("mine.jsonl").write_text('{"text": "once upon a time"}\n{"text": "a time, once"}\n')
    flags = "--checkpoint models/pretrain --checkpoint models/lora --text mine.jsonl --out out/mine.md"
    assert not run_stage("evaluate", *flags.split())
    page = Path("out/mine.md").read_text()
    assert capsys.readouterr().out == f"{page}\nout/mine.md written, with the figures in out/mine.json\n"
    figures = json.loads(Path("out/mine.json").read_text())
    assert list(figures) == ["models/pretrain", "models/lora"] and "## mine.jsonl\n\n2 texts." in page
    model, tok = load_checkpoint("models/pretrain")
    documents = [np.array([tok.eot, *tok.encode(text), tok.eot]) for text in ("once upon a time", "a time, once")]
    score = score_documents(model, documents, tok.byte_lengths())
    assert figures["models/pretrain"]["text"]["bpb"] == pytest.approx(score.bpb, rel=1e-5)
    assert figures["models/lora"]["text"]["bpb_change"] != 0
    assert not Path("metrics").exists()


def test_the_validation_texts_of_the_project(project, run_stage, capsys):
    assert not run_stage("evaluate", "--checkpoint", "models/pretrain")
    page = capsys.readouterr().out
    assert page.count("| models/pretrain |") == 2 and "Minimal pairs" not in page
