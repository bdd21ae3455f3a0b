"""How many threads decode: all, unless another process keeps the cores busy, which one thread bears far better."""

import time
from collections import deque
from collections.abc import Callable
from typing import TypeVar

import torch

from nanogpt.runtime.cores import usable_cores

MOST = 4  # a token has too little work for more
FIRST_TRIAL, LAST_INTERVAL = 4, 256  # steps to the first trial of the other number; the interval doubles up to the last
TRIAL = 2  # steps of a trial
Result = TypeVar("Result")


class ThreadChoice:
    """Times calls with several threads and with one, and keeps to the faster.

    Threads that wait for each other's share of a product wait for the process that has taken their core: on two cores,
    two processes of two threads each decoded at a fifth of the speed that they had alone, and with one thread each at
    all of it.
    """

    def __init__(self, most: int | None = None):
        self.most = min(usable_cores(), MOST) if most is None else most
        self.threads = self.most
        self._calls, self._interval = 0, FIRST_TRIAL
        # seconds of the last calls as usual, and of a trial
        self._usual, self._trial = (deque[float](maxlen=TRIAL) for _ in range(2))

    def run(self, call: Callable[[], Result]) -> Result:
        """Call it with the better number of threads, or now and then with the other."""
        self._calls += 1
        trying = self.most > 1 and self._calls > self._interval
        if (wanted := self._other if trying else self.threads) != torch.get_num_threads():
            torch.set_num_threads(wanted)
        start = time.perf_counter()
        result = call()
        elapsed = time.perf_counter() - start
        (self._trial if trying else self._usual).append(elapsed)
        if trying and len(self._trial) == TRIAL:
            if min(self._trial) < min(self._usual):
                self.threads = self._other
            self._calls, self._interval = 0, min(2 * self._interval, LAST_INTERVAL)
            self._trial.clear()
        return result

    @property
    def _other(self) -> int:
        return 1 if self.threads > 1 else self.most
