"""Kill `dvc repro` at random moments, run it again, and compare the end with a run that nobody disturbed.

`python tests/support/torture.py --kills 50 --seed 1` ends with status 1 where a result differs, a training starts anew
although a state of it was kept, a process or a file is left behind, or `dvc repro` wants more than to be run again.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pandas as pd
import psutil
from clone import Clone, untimed

START = "start of dvc"
TRAININGS = ("pretrain", "lora-finetune")
STEPS = 600
SETTINGS = {
    "train.max_steps": STEPS,
    "train.eval_every": 100,
    "train.log_every": 20,
    "train.checkpoint_every": 20,
    "train.dtype": "float32",
    "train.threads": 1,
    "model.dropout": 0.1,
    "lora.max_steps": STEPS,
    "lora.dropout": 0.1,
}
WAYS = {
    "SIGKILL dvc": (signal.SIGKILL, "dvc"),
    "SIGKILL stage": (signal.SIGKILL, "stage"),  # as the kernel does where memory is short
    "SIGKILL all": (signal.SIGKILL, "all"),
    "SIGTERM dvc": (signal.SIGTERM, "dvc"),
    "SIGTERM all": (signal.SIGTERM, "all"),
    "SIGINT all": (signal.SIGINT, "all"),  # Ctrl-C
}
LONGEST = 300  # seconds for a whole `dvc repro`: what takes longer hangs


@dataclass(frozen=True)
class Kill:
    """Strike so many seconds after the beginning of `stage` or, with `saved`, after this training saved a state."""

    stage: str
    way: str
    seconds: float = 0.0
    saved: bool = False


class Run:
    """`dvc …` in a session of its own, with what it and its stages print in a file."""

    def __init__(self, clone: Clone, *words: str):
        self.folder = clone.folder
        self.log = Path(tempfile.mkstemp(prefix="run-", suffix=".txt", dir=clone.folder.parent)[1])
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-u", "-m", "dvc", *words],
                cwd=clone.folder, env=clone.env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                preexec_fn=_take_signals,
            )  # fmt: skip

    @property
    def text(self) -> str:
        return self.log.read_text("utf-8", "replace")

    @property
    def stage(self) -> str:
        """The stage that runs now, or ran last."""
        return [START, *re.findall(r"^Running stage '(.+)':$", self.text, re.MULTILINE)][-1]

    def part(self, stage: str) -> str:
        """What `stage` printed."""
        return self.text.partition(f"Running stage '{stage}':\n")[2].partition("Running stage '")[0]

    def ended(self) -> bool:
        return self.process.poll() is not None

    def until(self, condition: Callable[[], bool]) -> bool:
        """Wait for `condition`; False where the process ended before."""
        end = time.monotonic() + LONGEST
        while not condition():
            if self.ended():
                return False
            if time.monotonic() > end:
                os.killpg(self.process.pid, signal.SIGKILL)
                raise TimeoutError(self.text)
            time.sleep(0.02)
        return not self.ended()

    def wait(self) -> int:
        """The exit status of dvc."""
        self.until(self.ended)
        return self.process.returncode

    def strike(self, way: str) -> None:
        """Send the signal, to `dvc` alone, the stage alone or the whole group, and wait for the end of dvc."""
        number, whom = WAYS[way]
        if self.ended():
            return
        if whom == "all":
            os.killpg(self.process.pid, number)
        elif whom == "stage" and (stages := processes(self.folder, "stages.")):
            stages[0].send_signal(number)
        else:
            self.process.send_signal(number)
        self.wait()


class Reference:
    """A clone in which `dvc repro` ran undisturbed: what it made, and how long each part of it took."""

    def __init__(self, folder: Path, target: str):
        self.target = target
        self.clone = Clone(folder)
        self.clone.set(**SETTINGS)
        self.clone.commit("settings")
        run = Run(self.clone, "repro", target)
        started = {START: time.monotonic()}
        while run.until(lambda: run.stage not in started):
            started[run.stage] = time.monotonic()
        assert run.wait() == 0, run.text
        started["end"] = time.monotonic()
        self.seconds = {stage: after - before for (stage, before), (_, after) in pairwise(started.items())}
        self.results = results(self.clone.folder)

    def fresh(self, folder: Path) -> Clone:
        """Another clone in which nothing ran yet, that computes as the reference did."""
        made = self.clone.git_clone(folder)
        shutil.copytree(self.clone.folder / ".work/rates", made.folder / ".work/rates")
        return made

    def faults(self, clone: Clone) -> list[str]:
        """What a complete run in `clone` left that the reference did not."""
        theirs = results(clone.folder)
        names = sorted(name for name in self.results | theirs if self.results.get(name) != theirs.get(name))
        found = [f"{name} differs" for name in names]
        return found + [f"{path} is left" for path in strays(clone.folder)] + processes_left(clone.folder)


def _take_signals() -> None:
    """As on a terminal: a shell's background job ignores Ctrl-C, and all that it starts does."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def results(folder: Path) -> dict[str, object]:
    """All files of data, models and metrics: JSON of metrics without what is timed, SHA-256 of the rest."""
    found = {}
    for path in (path for top in ("data", "models", "metrics") for path in (folder / top).rglob("*") if path.is_file()):
        name, data = path.relative_to(folder).as_posix(), path.read_bytes()
        found[name] = hashlib.sha256(data).hexdigest()
        if re.fullmatch(r"metrics/[^/]*(?<!machine)\.json", name):
            found[name] = untimed(json.loads(data))
    return found


def strays(folder: Path) -> list[str]:
    """What killed runs left: files beside the outs, and folders of unfinished trainings."""
    aside = [path for top in ("data", "models", "metrics", ".work") for path in (folder / top).rglob(".*.*")]
    runs = [path for stage in TRAININGS for path in (folder / ".work" / stage).glob("*")]
    return [
        str(path.relative_to(folder)) for path in aside + runs if path.suffix in (".tmp", ".replaced") or path in runs
    ]


def processes(folder: Path, word: str = "") -> list[psutil.Process]:
    """Those that run in `folder` and have `word` in their command."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if Path(process.cwd()).is_relative_to(folder) and any(word in part for part in process.cmdline()):
                found.append(process)
    return found


def processes_left(folder: Path, patience: float = 10) -> list[str]:
    """Processes that still run in `folder` after so many seconds."""
    end = time.monotonic() + patience
    while found := processes(folder):
        if time.monotonic() > end:
            return [f"process {process.pid} is left" for process in found]
        time.sleep(0.1)
    return []


def saved(folder: Path, stage: str) -> int:
    """Steps that the newest state of a training is after; 0 where there is none."""
    names = [path.name for path in (folder / ".work" / stage).glob("*/step-*.pt")]
    return max((int(name.split("-")[1]) for name in names), default=0)


@dataclass
class Toll:
    """What happened to the clones so far."""

    kills: Counter = field(default_factory=Counter)  # of (stage, way)
    complete: int = 0
    resumed: list[int] = field(default_factory=list)  # steps that were not done again
    damaged: list[str] = field(default_factory=list)  # DVC's own files that were repaired
    faults: list[str] = field(default_factory=list)


def disturb(reference: Reference, clone: Clone, kills: list[Kill], toll: Toll) -> None:
    """Run `dvc repro` in `clone` and strike it with one kill after the other; then let it complete, and compare."""
    left = [*kills, None]
    while True:
        kill = left[0]
        kept = {stage: saved(clone.folder, stage) for stage in TRAININGS}
        run = Run(clone, "repro", reference.target)
        hit = strike(run, kill, list(reference.seconds)) if kill else None
        status = run.wait()
        for stage in TRAININGS:
            if match := re.search(r"^resuming after step (\d+)", run.part(stage), re.MULTILINE):
                toll.resumed.append(int(match[1]))
                print(f"{stage} went on after step {match[1]}")
            if kept[stage] and re.search(r"^step 1/", run.part(stage), re.MULTILINE):
                toll.faults.append(f"{stage} started anew, a state after {kept[stage]} steps being kept: {run.text}")
        if hit:
            toll.kills[hit, kill.way] += 1
            print(f"kill {toll.kills.total()}: {kill.way}, in {hit}; dvc ended with {status}")
            left.pop(0)
        elif status:
            repaired = clone.run(sys.executable, "-m", "stages.mend").stdout.splitlines()
            if repaired == ["no file of DVC is damaged"]:
                toll.faults.append(f"dvc repro, run again, ended with {status}: {run.text}")
                return
            toll.damaged += repaired
            print("; ".join(repaired))
        else:
            break
    toll.complete += 1
    faults = reference.faults(clone)
    toll.faults += faults
    print(f"complete: {'all as undisturbed' if not faults else '; '.join(faults)}")


def strike(run: Run, kill: Kill, order: list[str]) -> str | None:
    """Strike when the time has come; the stage that ran then, None where dvc ended before.

    Where the stage that was meant has been done already, the next one is struck.
    """
    kept = saved(run.folder, kill.stage)
    if not run.until(lambda: order.index(run.stage) >= order.index(kill.stage)):
        return None
    if kill.saved and not run.until(lambda: saved(run.folder, kill.stage) > kept or run.stage != kill.stage):
        return None
    end = time.monotonic() + kill.seconds
    if not run.until(lambda: time.monotonic() >= end):
        return None
    stage = run.stage
    run.strike(kill.way)
    return stage


def plan(reference: Reference, n_kills: int, rng: random.Random) -> list[Kill]:
    """Kills at random moments for one way through the pipeline, in the order of its stages."""
    kills, order = [], list(reference.seconds)
    for stage in sorted(rng.choices(order, k=n_kills), key=order.index):
        after_save = stage in TRAININGS and rng.random() < 0.5  # half of a small training's time goes into imports
        longest = reference.seconds[stage] * (0.2 if after_save else 1.0)
        kills.append(Kill(stage, rng.choice(list(WAYS)), rng.uniform(0, longest), after_save))
    return kills


def torture(reference: Reference, n_kills: int, seed: int, folder: Path) -> Toll:
    """Strike `n_kills` times, in as many clones below `folder` as that takes."""
    rng, toll = random.Random(seed), Toll()
    while (left := n_kills - toll.kills.total()) > 0 and not toll.faults:
        place = folder / f"tortured-{toll.complete}"
        disturb(reference, reference.fresh(place), plan(reference, min(left, 8), rng), toll)
        if not toll.faults:
            shutil.rmtree(place)
    return toll


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--kills", type=int, default=50, help="how often (default: %(default)s)")
    flags.add_argument("--seed", type=int, default=1, help="of the moments and the signals (default: %(default)s)")
    args = flags.parse_args()
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    print(f"undisturbed run in {folder}")
    reference = Reference(folder / "reference", "merge")
    print(", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in reference.seconds.items()))
    toll = torture(reference, args.kills, args.seed, folder)
    kills = pd.DataFrame({way: {stage: toll.kills[stage, way] for stage in reference.seconds} for way in WAYS})
    print(
        f"\n{kills.assign(all=kills.sum(axis=1)).to_string()}\n",
        f"{toll.kills.total()} kills, {toll.complete} complete runs",
        f"{len(toll.resumed)} times a training went on from a state, {sum(toll.resumed)} steps were not done again",
        f"{len(toll.damaged)} files of DVC were damaged, and repaired by `python -m stages.mend`", *toll.damaged,
        f"{len(toll.faults)} faults", *toll.faults, f"{time.monotonic() - started:.0f} s", sep="\n",
    )  # fmt: skip
    if toll.faults:
        sys.exit(f"what the faults left is in {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
