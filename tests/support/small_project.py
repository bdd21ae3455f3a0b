"""A small project in which every stage has run, to be copied and damaged."""

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import torch
from clone import SMALL, Clone, untimed
from forked import interrupt_third_step, run
from imports import ROOT
from record_files import pack, written

from nanogpt.data.sources.pages import Pages
from nanogpt.pipeline.sections import Data
from nanogpt.runtime import params
from nanogpt.runtime.workdir import work_folder

TINY = SMALL | {
    "data.pretrain.num_samples": 60, "data.finetune.num_samples": 40, "tokenizer.vocab_size": 320,
    "model.block_size": 32, "train.max_steps": 3, "train.dtype": "float32", "train.compile": "off",
    "train.threads": 1, "train.device": "cpu", "train.checkpoint_every": 1, "sample.prompts": ["Once upon a time"],
}  # fmt: skip
VARIANTS = {
    "base": {},
    "optimized": {
        "model.arch": "optimized", "model.tie_embeddings": False, "tokenizer.kind": "char",
        "tokenizer.unknown": "replace", "checkpoint.format": "pt", "lora.kind": "dora",
    },
}  # fmt: skip
INTERRUPTED = ".work.interrupted"  # renamed to .work, it holds two runs that were interrupted after two steps
OWN = [f"“Tea,” said the cat, “for {i}, at {i % 12} o'clock.”\n\nThe dog — naïve as ever — came." for i in range(40)]


class Project(Clone):
    """A folder outside DVC; `set` changes its settings."""

    def __init__(self, folder: Path):
        self.folder = folder

    def make(self, variant: str) -> None:
        """Write all outs of the pipeline, two interrupted runs, texts in files and fetched pages."""
        self.folder.mkdir(parents=True)
        shutil.copy(ROOT / "params.yaml", self.folder)
        self.set(**TINY | VARIANTS[variant])
        (self.folder / "data/own/model").mkdir(parents=True)
        self._own_texts()
        one = "convert --checkpoint models/pretrain --out models/one.pt"
        for command in ("check", "prepare", "pretrain", "lora_finetune", "merge", "sample", one):
            self._run(command)
        self._run("check", before=self._fetch)
        shutil.copytree(self.folder / ".work", self.folder / INTERRUPTED)
        for command in ("pretrain", "lora_finetune"):
            self._run(command, interrupt_third_step, 130)
        for kind in ("pretrain", "lora-finetune"):
            (self.folder / ".work" / kind).rename(self.folder / INTERRUPTED / kind)

    def _run(self, command: str, before: Callable[[], None] = lambda: None, status: int = 0) -> None:
        done = run(self.folder, command, before)
        assert done.status == status, f"{command}: {done.err}"

    def _own_texts(self) -> None:
        (self.folder / "own").mkdir()
        contents = {f"a{kind}": written(kind, OWN) for kind in (".txt", ".jsonl", ".csv", ".parquet")}
        contents["b.txt"] = "\n\n".join(text.replace("\n\n", "\n") for text in OWN).encode()
        for name, packed in (("a.txt", ".gz"), ("a.jsonl", ".zst")):
            contents[name + packed] = pack(contents[name], packed)
        for name, content in contents.items():
            (self.folder / "own" / name).write_bytes(content)

    def _fetch(self) -> None:
        """Two pages as if they came from the hub; in a process whose working folder is the project's."""
        own = params.load(data=Data).data.tinystories
        pages = Pages(work_folder("corpora", "tinystories", asdict(own)))
        state = {"revision": "1" * 40, "licence": "free", "position": [0, 0], "skipped": {}}
        pages.append(OWN[:20], state)
        pages.append(OWN[20:], state | {"end": True})

    def files(self, printed: str = "") -> dict[str, object]:
        """The content of every file but those in .work, without times and cards of .pt files, and what was printed."""
        found = {"stdout": printed}
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            if path.is_file() and not name.startswith(".work"):
                found[name] = path.read_bytes()
                if path.name in ("pretrain.json", "lora-finetune.json"):
                    found[name] = untimed(json.loads(found[name]))
                if path.suffix == ".pt":
                    with suppress(Exception):  # damaged
                        found[name] = _without_card(path)
        return found


def _without_card(path: Path) -> dict:
    """What a .pt file holds besides words that hashes stand in."""
    content = torch.load(path, weights_only=True)
    weights = {name: tensor.numpy().tobytes() for name, tensor in content.pop("model").items()}
    return content | weights | {"card": None}
