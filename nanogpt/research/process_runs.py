"""Small training runs in several processes, as commands in a folder of their own: disturbed, and over slow links."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from ruamel.yaml import YAML

from nanogpt.data.prepare.prepare import prepare_corpus
from nanogpt.data.sources.document import DataSettings
from nanogpt.data.sources.grammar import GeneratorSettings, generated_corpus
from nanogpt.data.sources.stories import GRAMMAR
from nanogpt.data.tokens.settings import TokenizerSettings
from nanogpt.runtime import params
from nanogpt.runtime.yaml_file import read_yaml

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 300  # that a run may take
SMALL = {
    "model": {"n_layer": 2, "n_head": 2, "n_embd": 64, "block_size": 64, "dropout": 0.1},
    "train": {
        "max_steps": 300, "max_minutes": None, "batch_size": 8, "grad_accum": 1, "eval_every": 100, "log_every": 50,
        "dtype": "float32", "compile": "off", "threads": 1, "device": "cpu", "checkpoint_every": 10, "timeout_s": 20,
    },
}  # fmt: skip


@dataclass(frozen=True)
class ProcessRuns:
    """A folder with a small text in tokens, in which the pretrain stage runs."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, documents: int = 2000, vocab_size: int = 512, **changed: dict) -> "ProcessRuns":
        """Write text and settings to a folder: those of params.yaml, but for the `changed` ones of each section."""
        document = read_yaml(params.PATH)
        for section, values in changed.items():
            document[section].update(values)
        with (folder / params.PATH).open("w", encoding="utf-8") as file:
            YAML(typ="rt", pure=True).dump(document, file)
        (folder / "data" / "own" / "model").mkdir(parents=True)  # train.init_from, empty
        data = DataSettings("stories", documents, 0.05, "", "", "", "text")
        corpus = generated_corpus("stories", GRAMMAR, data, GeneratorSettings(1))
        prepare_corpus(folder / "data" / "pretrain", corpus, 0.05, TokenizerSettings("bpe", vocab_size, "error"))
        return cls(folder)

    def command(self, out: str, *flags: str) -> list[str]:
        """The command that trains a model to the folder `out`."""
        return [sys.executable, "-m", "stages.pretrain", "--out", out, "--overwrite", *flags]

    @contextlib.contextmanager
    def start(self, command: Sequence[str]) -> Iterator[subprocess.Popen]:
        """Run a command there in the block, at whose end it is killed if it still runs; it prints to the file `log`."""
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        with (self.folder / "log").open("ab") as log:
            running = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        try:
            yield running
        finally:
            if running.poll() is None:
                running.kill()
                running.wait()

    def finish(self, command: Sequence[str]) -> int:
        """Run a command there to its end; return its status."""
        with self.start(command) as running:
            return running.wait(SECONDS)

    def workers(self) -> list[psutil.Process]:
        """The processes that train here now, the first one first."""
        found = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                environment = process.environ()
                if process.cwd() == str(self.folder) and "LOCAL_RANK" in environment:
                    found[int(environment["RANK"])] = process
        return [found[rank] for rank in sorted(found)]

    def left_running(self, patience_s: float = 10.0) -> list[psutil.Process]:
        """What still runs in the folder after so many seconds."""
        end = time.monotonic() + patience_s
        while (left := self._running()) and time.monotonic() < end:
            time.sleep(0.1)
        return left

    def _running(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.cwd() == str(self.folder) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def newest_state(self) -> int:
        """After how many steps the newest state was saved; 0 for none."""
        return max((int(path.name[5:14]) for path in self.folder.glob(".work/pretrain/*/step-*.pt")), default=0)

    def wait_for_state(self, step: int, running: subprocess.Popen) -> None:
        """Wait until a state of so many steps is saved, or the run has ended."""
        while self.newest_state() < step and running.poll() is None:
            time.sleep(0.02)


def kill(process: psutil.Process) -> None:
    """End a process as a crash does; one that is gone already is left alone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGKILL)
