"""Kills of processes that train together, and what comes of the run."""

import random
import tempfile
from pathlib import Path

from nanogpt.research.process_runs import SMALL, ProcessRuns, kill
from nanogpt.runtime.checksums import sha256


def measure_faults(kills: int, seed: int, kills_a_run: int = 4) -> dict[str, int]:
    """Kill one of two processes at random moments, `kills` times in all, and compare the runs' results.

    A run is killed `kills_a_run` times, and begun again after each, in turns by the same command and by `torchrun
    --max-restarts`, which begins it itself. `different_results` counts the runs whose weights are not those of an
    undisturbed run to the bit, `left_running` the processes that outlive a run.
    """
    choose = random.Random(seed)
    different = left = made = 0
    with tempfile.TemporaryDirectory() as scratch:
        runs = ProcessRuns.make(Path(scratch), **SMALL)
        whole = runs.command("whole", "--processes", "2")
        if runs.finish(whole):
            raise RuntimeError((runs.folder / "log").read_text("utf-8"))
        expected = sha256(runs.folder / "whole" / "model.safetensors")
        while made < kills:
            number = min(kills_a_run, kills - made)
            by_torchrun = made // kills_a_run % 2 == 1
            disturb = _with_torchrun if by_torchrun else _with_the_same_command
            disturb(runs, f"run-{made}", number, choose)
            made += number
            left += len(runs.left_running())
            weights = runs.folder / f"run-{made - number}" / "model.safetensors"
            different += not weights.exists() or sha256(weights) != expected
    return {"kills": made, "different_results": different, "left_running": left}


def _with_the_same_command(runs: ProcessRuns, out: str, kills: int, choose: random.Random) -> None:
    command = runs.command(out, "--processes", "2")
    for _ in range(kills):
        with runs.start(command) as running:
            _kill_one(runs, running, choose)
            running.wait(60)
    runs.finish(command)


def _with_torchrun(runs: ProcessRuns, out: str, kills: int, choose: random.Random) -> None:
    _, *command = runs.command(out)
    flags = ["--standalone", "--nproc-per-node", "2", "--max-restarts", str(kills)]
    with runs.start(["torchrun", *flags, *command]) as running:
        for _ in range(kills):
            _kill_one(runs, running, choose)
        running.wait(300)


def _kill_one(runs: ProcessRuns, running, choose: random.Random) -> None:
    """Kill a process at random, some steps after the run has gone on from its newest state."""
    runs.wait_for_state(runs.newest_state() + choose.choice([10, 20, 30]), running)
    workers = runs.workers()
    if workers:
        kill(choose.choice(workers))
