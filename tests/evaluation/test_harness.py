"""The harness itself on tasks of a hub on the loopback address, against likelihoods that are computed here."""

import json
import math
import os
import subprocess
import sys

import pytest
import torch
from hub_server import Hub
from imports import ROOT

from nanogpt.checkpoint.folder import load_checkpoint, save_checkpoint
from nanogpt.evaluation.harness import run_tasks
from nanogpt.runtime.errors import UserError

pytest.importorskip("lm_eval", reason="lm_eval is not installed (requirements/lm-eval.txt)")
pytestmark = pytest.mark.slow

PAIRS = [
    ("the cat sat", "the cat sits the"),
    ("a dog barks", "a dogs barks"),
    ("I am here", "I are here"),
    ("ab", "ba"),
]
LAST_WORDS = ["the cat sat on the mat", "a dog saw a cat"]


def hub() -> Hub:
    """BLiMP's first set and LAMBADA, as small as can be, in the columns that the harness's own task files name."""
    made = Hub()
    lines = "".join(json.dumps({"sentence_good": good, "sentence_bad": bad}) + "\n" for good, bad in PAIRS)
    made.commit("nyu-mll/blimp", card("adjunct_island", "train", lines))
    lines = "".join(json.dumps({"text": text}) + "\n" for text in LAST_WORDS)
    made.commit("EleutherAI/lambada_openai", card("default", "test", lines))
    return made


def card(config: str, split: str, lines: str) -> dict[str, bytes]:
    """The files of a data set with one configuration of one split."""
    files = f"  data_files:\n  - split: {split}\n    path: {split}.jsonl"
    return {
        "README.md": f"---\nconfigs:\n- config_name: {config}\n{files}\n---\n".encode(),
        f"{split}.jsonl": lines.encode(),
    }


def test_blimp_and_lambada_on_a_folder_and_a_file(tiny, byte, tmp_path):
    (tmp_path / "data" / "own" / "model").mkdir(parents=True)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (tmp_path / "text.txt").write_text("the cat sat\n\na dog")
    model = tiny("optimized", block_size=64, vocab_size=byte.vocab_size).eval()
    save_checkpoint(tmp_path / "model", model, byte)
    save_checkpoint(tmp_path / "model.pt", model, byte)
    flags = "--checkpoint model --checkpoint model.pt --text text.txt --harness blimp_adjunct_island,lambada_openai"
    with hub().serve() as server:
        environment = os.environ | {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "stages.evaluate", *flags.split(), "--out", "out/page.md"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "out" / "page.json").read_text())
    assert figures["model"]["harness"] == figures["model.pt"]["harness"]

    with pytest.raises(UserError, match="--harness blump: lm_eval has no task blump"):
        run_tasks({}, ["blump"])
    model, _ = load_checkpoint(tmp_path / "model")
    nats = {text: likelihood(model, [byte.eot, *text.encode()]) for pair in PAIRS for text in pair}
    right = sum(nats[good] < nats[bad] for good, bad in PAIRS)
    assert figures["model"]["harness"]["blimp_adjunct_island"]["acc"] == right / len(PAIRS)
    # the harness starts a text with a context without a start token
    contexts = [text.rpartition(" ")[0] for text in LAST_WORDS]
    last = [likelihood(model, text.encode()) - likelihood(model, context.encode())
            for text, context in zip(LAST_WORDS, contexts, strict=True)]  # fmt: skip
    found = figures["model"]["harness"]["lambada_openai"]["perplexity"]
    assert found == pytest.approx(math.exp(sum(last) / len(last)), rel=1e-4)
    assert "blimp_adjunct_island" in (tmp_path / "out" / "page.md").read_text()


def likelihood(model, ids) -> float:
    """Negative log likelihood of all tokens but the first, in nats."""
    ids = torch.tensor([list(ids)])
    with torch.no_grad():
        log_p = model(ids[:, :-1]).double().log_softmax(-1)[0]
    return -log_p.gather(1, ids[0, 1:, None]).sum().item()
