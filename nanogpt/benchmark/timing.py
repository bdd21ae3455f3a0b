"""Time several kinds of steps in turns, each in a process of its own, so that a slow minute slows all of them."""

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

# A turn is TIMED steps after WARM_UP untimed ones: while others had their turn, the system may have taken back the
# pages that a step frees, and on a virtual machine it took half as long as a step to get them again.
WARM_UP, TIMED = 2, 3
END_SECONDS = 10  # for a process to end by itself


@dataclass(frozen=True)
class Times:
    """`seconds`: times of each kind of step, in all its turns. `peak_mib`: greatest resident memory of each process."""

    seconds: dict[str, list[float]]
    peak_mib: dict[str, float]

    @property
    def medians(self) -> dict[str, float]:
        """Median seconds of each kind of step."""
        return {name: statistics.median(times) for name, times in self.seconds.items()}


def time_in_turns(entries: dict[str, Callable[[], Steps]], steps: int) -> Times:
    """Time at least `steps` steps of each kind in turns, AAA BBB CCC AAA BBB CCC ...

    Each entry is pickled and called in a fresh process, and returns the kinds of steps to time there by name. No two
    processes work at once. Raises UserError where a process is killed, as Linux does when memory is short.
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
    """Start a process and warm it up; give a function that asks it to "time" a turn of each step or for its "peak"."""
    context = multiprocessing.get_context("spawn")
    pipe, child_pipe = context.Pipe()
    process = context.Process(target=_serve, args=(child_pipe, entry), daemon=True)
    process.start()
    child_pipe.close()

    def ask(question: str) -> object:
        try:
            pipe.send(question)
            answer = pipe.recv()
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
        pipe.close()
        process.join(END_SECONDS)  # it ends when the pipe closes, and ends the workers that torch.compile started
        process.terminate()
        process.join()


def _serve(pipe: Connection, entry: Callable[[], Steps]) -> None:
    try:
        steps = entry()
        while True:
            match pipe.recv():
                case "warm":
                    for step in steps.values():  # torch compiles in the first call
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
    times = [time.perf_counter()]
    for _ in range(TIMED):
        step()
        times.append(time.perf_counter())
    return [after - before for before, after in itertools.pairwise(times)]
