"""Time several kinds of steps in turns, each in a process of its own, so that a slow minute slows all of them."""

import contextlib
import itertools
import math
import multiprocessing
import os
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial

from nanogpt.hardware import memory
from nanogpt.runtime.errors import UserError

Step = Callable[[], object]
Steps = dict[str, Step]

# A turn is TIMED steps after WARM_UP untimed ones: while others had their turn, the system may have taken back the
# pages that a step frees, and on a virtual machine it took half as long as a step to get them again.
WARM_UP, TIMED = 2, 3
_steps: Steps = {}  # of this process


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
    context = multiprocessing.get_context("forkserver")  # which imports torch once, and computes nothing
    context.set_forkserver_preload([__name__, "torch._dynamo", *{_module(entry) for entry in entries.values()}])
    with contextlib.ExitStack() as stack:
        pools = {name: stack.enter_context(ProcessPoolExecutor(1, context, _end_with_parent)) for name in entries}

        def call(name: str, function: Callable, *args):
            try:
                return pools[name].submit(function, *args).result()
            except BrokenProcessPool:
                reason = f"the benchmark's process for {name} was killed, perhaps for want of memory"
                raise UserError(f"{reason}; choose a smaller benchmark.batch_size") from None

        for name, entry in entries.items():
            call(name, _warm_up, entry)
        seconds: dict[str, list[float]] = {}
        for _ in range(math.ceil(steps / TIMED)):
            for entry in entries:
                for name, elapsed in call(entry, _time_one_turn).items():
                    seconds.setdefault(name, []).extend(elapsed)
        return Times(seconds, {name: call(name, memory.peak_mib) for name in entries})


def _module(function: Callable) -> str:
    return function.func.__module__ if isinstance(function, partial) else function.__module__


def _end_with_parent() -> None:
    """End this process when its parent has ended, which may have been killed."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _warm_up(entry: Callable[[], Steps]) -> None:
    """Build the steps of this process and call each once: torch compiles in the first call."""
    _steps.update(entry())
    for step in _steps.values():
        step()


def _time_one_turn() -> dict[str, list[float]]:
    """Seconds of TIMED steps of each kind in this process."""
    seconds = {}
    for name, step in _steps.items():
        for _ in range(WARM_UP):
            step()
        times = [time.perf_counter()]
        for _ in range(TIMED):
            step()
            times.append(time.perf_counter())
        seconds[name] = [after - before for before, after in itertools.pairwise(times)]
    return seconds
