"""The whole pipeline under a real dvc, in a real clone, with settings small enough to run in seconds."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from imports import ROOT
from ruamel.yaml import YAML

pytestmark = pytest.mark.slow

SMALL = {
    "data.pretrain.num_samples": 200,
    "data.finetune.num_samples": 150,
    "data.pretrain.val_fraction": 0.05,
    "data.finetune.val_fraction": 0.05,
    "tokenizer.vocab_size": 400,
    "model.n_layer": 1,
    "model.n_head": 2,
    "model.n_kv_head": 1,
    "model.n_embd": 16,
    "model.block_size": 64,
    "train.max_steps": 4,
    "train.warmup_steps": 1,
    "train.batch_size": 2,
    "train.eval_batches": 1,
    "train.log_every": 1,
    "lora.max_steps": 3,
    "lora.warmup_steps": 1,
    "lora.batch_size": 2,
    "lora.r": 2,
    "sample.num_samples": 1,
    "sample.max_tokens": 8,
    "benchmark.n_layer": 1,
    "benchmark.n_head": 2,
    "benchmark.n_kv_head": 1,
    "benchmark.n_embd": 16,
    "benchmark.block_size": 32,
    "benchmark.vocab_size": 320,
    "benchmark.num_iters": 1,
}
ALL = ["check", "prepare@pretrain", "prepare@finetune", "pretrain", "lora-finetune", "merge", "sample", "benchmark"]


class Clone:
    """A copy of the working tree with a history and DVC caches of its own."""

    def __init__(self, folder: Path):
        self.folder = folder / "nanogpt"
        self.env = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DVC_SITE_CACHE_DIR": str(folder / "site-cache"),
            "GIT_AUTHOR_NAME": "Test", "GIT_AUTHOR_EMAIL": "test@example.com",
            "GIT_COMMITTER_NAME": "Test", "GIT_COMMITTER_EMAIL": "test@example.com",
        }  # fmt: skip
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).is_file():
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, self.folder / name)
        (self.folder / "dvc.lock").unlink(missing_ok=True)
        self.git("init", "--quiet")
        self.set(**SMALL)
        self.commit("start")

    def run(self, *command: str, ok: bool = True) -> subprocess.CompletedProcess:
        done = subprocess.run(command, cwd=self.folder, env=self.env, capture_output=True, text=True)
        assert (done.returncode == 0) == ok, done.stdout + done.stderr
        return done

    def git(self, *words: str) -> None:
        self.run("git", *words)

    def commit(self, message: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)

    def dvc(self, *words: str, ok: bool = True) -> subprocess.CompletedProcess:
        return self.run(sys.executable, "-m", "dvc", *words, ok=ok)

    def repro(self) -> list[str]:
        """Run what is out of date; returns the stages that ran."""
        return stages_run(self.dvc("repro"))

    def set(self, **changes) -> None:
        """Change settings, `**{"model.arch": "optimized"}`, comments kept."""
        yaml = YAML()
        path = self.folder / "params.yaml"
        document = yaml.load(path)
        for key, value in changes.items():
            *sections, last = key.split(".")
            section = document
            for part in sections:
                section = section[part]
            section[last] = value
        yaml.dump(document, path)

    def json(self, name: str) -> dict:
        return json.loads((self.folder / name).read_text(encoding="utf-8"))


def stages_run(done: subprocess.CompletedProcess) -> list[str]:
    return re.findall(r"^Running stage '(.+)':$", done.stdout, re.MULTILINE)


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Clone:
    made = Clone(tmp_path_factory.mktemp("clone"))
    assert sorted(made.repro()) == sorted(ALL)
    made.commit("results")
    return made


def test_every_promised_file_appears_and_a_second_run_does_nothing(clone):
    for name in (
        "data/pretrain/train.bin", "data/pretrain/tokenizer/tokenizer.json", "data/finetune/val.bin",
        "models/pretrain/model.safetensors", "models/pretrain/config.json", "models/pretrain/tokenizer.json",
        "models/lora/adapter_model.safetensors", "models/merged/model.safetensors", "metrics/samples.md",
        "metrics/pretrain-train.csv", "metrics/lora-finetune-val.csv",
    ):  # fmt: skip
        assert (clone.folder / name).is_file(), name
    for stage in ("pretrain", "lora-finetune"):
        figures = clone.json(f"metrics/{stage}.json")
        assert figures["val"]["bpb"] > figures["floor"]["bpb"] > 0
        assert figures["val"]["loss_nats"] > 0 < figures["tokens_per_s"]
    assert clone.json("metrics/benchmark.json")["speedup"]["optimized_fp32_over_base_fp32"] > 0
    assert clone.json("metrics/merge.json")["loss_change_nats"] < 1e-3
    sample = clone.json("metrics/sample.json")
    assert sample["merged"]["finetune"]["bpb"] == pytest.approx(sample["adapted"]["finetune"]["bpb"], rel=0.02)
    page = (clone.folder / "metrics/samples.md").read_text(encoding="utf-8")
    assert all(word in page for word in ("### pretrained", "### adapted", "### merged", "Once upon a time"))
    assert clone.repro() == []
    assert stages_run(clone.dvc("repro", "--dry", "--allow-missing")) == []


AFTER_PREPARE = ["pretrain", "lora-finetune", "merge", "sample"]


@pytest.mark.parametrize(
    ("change", "rerun"),
    [
        ({"sample.temperature": 0.5}, ["sample"]),
        ({"benchmark.num_iters": 2}, ["benchmark"]),
        ({"lora.r": 3}, AFTER_PREPARE[1:]),
        ({"data.finetune.num_samples": 160}, ["prepare@finetune", *AFTER_PREPARE[1:]]),
        ({"train.lr": 0.002}, AFTER_PREPARE),
    ],
)
def test_a_setting_reruns_the_stages_it_touches_and_no_others(clone, change, rerun):
    clone.set(**change)
    assert clone.repro() == ["check", *rerun]
    clone.git("checkout", "--quiet", ".")
    clone.dvc("checkout", "--quiet")


def test_experiments(clone):
    done = clone.dvc("exp", "run", "-S", "model.arch=optimized")
    assert stages_run(done) == ["check", *AFTER_PREPARE]
    assert clone.json("models/pretrain/config.json")["model_type"] == "llama"
    difference = json.loads(clone.dvc("metrics", "diff", "--json").stdout)
    assert difference["metrics/pretrain.json"]["val.loss_nats"]["diff"] != 0
    clone.dvc("plots", "show", "--out", "page")
    page = (clone.folder / "page" / "index.html").read_text(encoding="utf-8")
    assert "Pretraining loss" in page and "train_loss" in page
    assert "optimized" in clone.dvc("exp", "show", "--csv").stdout
    clone.git("checkout", "--quiet", ".")
    clone.dvc("checkout", "--quiet")


def test_own_text_is_noticed_when_edited(clone):
    own = clone.folder / "data" / "own" / "finetune" / "own.txt"
    own.write_text("\n\n".join(f"My own text, number {i}." for i in range(300)))
    clone.set(**{"data.finetune.source": "files", "data.finetune.num_samples": None})
    rerun = ["check", "prepare@finetune", *AFTER_PREPARE[1:]]
    assert clone.repro() == rerun
    assert "floor" not in clone.json("metrics/lora-finetune.json")
    own.write_text("\n\n".join(f"My own text, edited, number {i}." for i in range(300)))
    assert clone.repro() == rerun
    own.unlink()
    clone.git("checkout", "--quiet", ".")
    clone.dvc("checkout", "--quiet")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.n_embd": 17}, r"params\.yaml, line \d+: model\.n_embd = 17: 2 heads do not divide it; try 16"),
        ({"sample.temperature": "warm"}, r"sample\.temperature = 'warm': this is text, not a number"),
        ({"data.finetune.source": "files"}, r"data/own/finetune"),
    ],
)
def test_check_finds_mistakes_before_anything_is_deleted(clone, change, message):
    clone.set(**change)
    done = clone.dvc("repro", ok=False)
    assert stages_run(done) == ["check"]
    assert re.search(rf"^error: .*{message}", done.stderr, re.MULTILINE), done.stderr
    assert "Traceback" not in done.stderr
    for name in ("data/pretrain/train.bin", "models/pretrain/model.safetensors", "metrics/samples.md"):
        assert (clone.folder / name).is_file()
    clone.git("checkout", "--quiet", ".")
    clone.dvc("checkout", "--quiet")
    assert clone.repro() == []
