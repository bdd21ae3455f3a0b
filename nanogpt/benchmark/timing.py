"""Timing in turns: whatever is compared steps in turn, each in a fresh process, so that drift hits all alike."""

import contextlib
import itertools
import math
import multiprocessing
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection

from nanogpt.hardware import memory
from nanogpt.runtime.errors import UserError

Steps = dict[str, Callable[[], object]]

# A turn is some steps on end, and before them some that are not timed: while others had their turn, the system may
# have taken back the pages that a step frees, and on a virtual machine to get them again took half as long as a step.
WARM_UP, TIMED = 2, 3
PATIENCE_S = 10  # for a process to end by itself


@dataclass(frozen=True)
class Times:
    """`seconds` of each step, all its turns; `peak_mib` of each process, greatest resident memory."""

    seconds: dict[str, list[float]]
    peak_mib: dict[str, float]

    @property
    def medians(self) -> dict[str, float]:
        """Seconds of a typical turn of each step."""
        return {name: statistics.median(times) for name, times in self.seconds.items()}


def time_in_turns(entries: dict[str, Callable[[], Steps]], steps: int) -> Times:
    """Time at least that many steps of each kind in turns, AAA BBB CCC AAA BBB CCC ...

    Each entry is called in a process of its own, which has nothing else in its memory and no setting of another's,
    and returns the steps to time there by name; no two processes work at once. Entries travel by pickle.
    Raises UserError where a process ends early, as one does that finds no memory.
    """
    with contextlib.ExitStack() as stack:
        runners = {name: stack.enter_context(_start_process(name, entry)) for name, entry in entries.items()}
        seconds: dict[str, list[float]] = {}
        for _ in range(math.ceil(steps / TIMED)):
            for runner in runners.values():
                for name, elapsed in runner("time").items():
                    seconds.setdefault(name, []).extend(elapsed)
        return Times(seconds, {name: runner("peak") for name, runner in runners.items()})


@contextlib.contextmanager
def _start_process(name: str, entry: Callable[[], Steps]) -> Iterator[Callable[[str], object]]:
    """Start a process and warm it up; what is given can be asked to "time" a turn of each step, or for its "peak"."""
    context = multiprocessing.get_context("spawn")
    ours, its = context.Pipe()
    process = context.Process(target=_serve, args=(its, entry), daemon=True)
    process.start()
    its.close()

    def ask(question: str) -> object:
        try:
            ours.send(question)
            answer = ours.recv()
        except (EOFError, OSError):
            process.join()
            advice = "; perhaps for want of memory: choose a smaller benchmark.batch_size"
            raise UserError(
                f"the benchmark's process for {name} ended with status {process.exitcode}"
                + (advice if process.exitcode < 0 else "")
            ) from None
        if isinstance(answer, str):
            raise RuntimeError(f"{name}: {answer}")
        return answer

    try:
        ask("warm")
        yield ask
    finally:
        ours.close()
        process.join(PATIENCE_S)  # it ends by itself then, and so do the workers that torch.compile started
        process.terminate()
        process.join()


def _serve(pipe: Connection, entry: Callable[[], Steps]) -> None:
    try:
        steps = entry()
        while True:
            match pipe.recv():
                case "warm":
                    for step in steps.values():  # compiles, where it does
                        step()
                    pipe.send(True)
                case "time":
                    pipe.send({name: _time_one_turn(step) for name, step in steps.items()})
                case "peak":
                    pipe.send(memory.peak_mib())
    except (EOFError, KeyboardInterrupt):
        return
    except Exception:
        pipe.send(traceback.format_exc())


def _time_one_turn(step: Callable[[], object]) -> list[float]:
    for _ in range(WARM_UP):
        step()
    moments = [time.perf_counter()]
    for _ in range(TIMED):
        step()
        moments.append(time.perf_counter())
    return [after - before for before, after in itertools.pairwise(moments)]
