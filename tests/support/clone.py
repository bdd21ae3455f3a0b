"""A real clone of the project with a real dvc, and settings small enough to run in seconds."""

import json
import os
import re
import shutil
import subprocess
import sys
from copy import copy
from pathlib import Path

from imports import ROOT
from ruamel.yaml import YAML

SMALL = {
    "data.pretrain.num_samples": 200, "data.pretrain.val_fraction": 0.05, "tokenizer.vocab_size": 400,
    "data.finetune.num_samples": 150, "data.finetune.val_fraction": 0.05,
    "model.n_layer": 1, "model.n_head": 2, "model.n_kv_head": 1, "model.n_embd": 16, "model.block_size": 64,
    "train.max_steps": 4, "train.warmup_steps": 1, "train.batch_size": 2, "train.eval_batches": 1, "train.log_every": 1,
    "lora.max_steps": 3, "lora.warmup_steps": 1, "lora.batch_size": 2, "lora.r": 2,
    "sample.num_samples": 1, "sample.max_tokens": 8, "evaluate.pairs": 2, "evaluate.texts": 2,
    "benchmark.n_layer": 1, "benchmark.n_head": 2, "benchmark.n_kv_head": 1, "benchmark.n_embd": 16,
    "benchmark.block_size": 32, "benchmark.vocab_size": 320, "benchmark.num_iters": 1,
    "benchmark.dtype": "float32", "benchmark.compile": "off",
}  # fmt: skip


# figures of a run that are not the same in another one
TIMED = {
    "tokens_per_s", "overhead_share", "first_step_s", "first_token_s", "validation_s", "saving_s", "peak_mib", "wall_s"
}  # fmt: skip


def untimed(figures: object) -> object:
    """Figures, nested in any way, without those of TIMED."""
    if not isinstance(figures, dict):
        return figures
    return {key: untimed(value) for key, value in figures.items() if key not in TIMED}


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

    def git_clone(self, folder: Path) -> "Clone":
        """A `git clone` of the last commit, with caches of its own."""
        made = copy(self)
        made.folder, made.env = folder / "nanogpt", self.env | {"DVC_SITE_CACHE_DIR": str(folder / "site-cache")}
        self.git("clone", "--quiet", ".", str(made.folder))
        return made

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
