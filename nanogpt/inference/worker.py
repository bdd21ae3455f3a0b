"""Writes the texts of all requests at once, with one or several models, and reports to an event loop."""

import asyncio
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from nanogpt.inference.sampling import Token
from nanogpt.inference.settings import Sampling
from nanogpt.inference.writer import Finish, Text, Writer
from nanogpt.runtime.errors import UserError

RATE_SECONDS = 10.0  # over which the rate of tokens is measured


class QueueFull(Exception):
    """More texts wait than the worker allows."""


class Stopped(Exception):
    """The worker is stopping and writes no more."""


class Failed(Exception):
    """A step of the model failed; the message says why."""


class News(NamedTuple):
    """What a step added to a text: `index` is the text's place in its job."""

    index: int
    piece: str
    token: Token
    finish: Finish | None


@dataclass(eq=False)
class Job:
    """The texts of one request: `sampling.num_samples` for each prompt of token ids, in the order of the prompts.

    `streams` tells that every step is reported, not the end alone. `left` is how many texts have not ended.
    """

    model: str
    prompts: Sequence[Sequence[int]]
    sampling: Sampling
    seed: int
    top_logprobs: int | None = None
    streams: bool = False
    texts: list[Text] = field(default_factory=list)
    left: int = 0
    _news: list[News] = field(default_factory=list)
    _error: Exception | None = None
    _reported: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def count(self) -> int:
        """How many texts there are in all."""
        return len(self.prompts) * self.sampling.num_samples

    async def wait(self) -> list[News]:
        """Return what was added since the last call, once there is any; without `streams`, [] when all texts ended.

        Raises the error that ended the job early, after what came before it.
        """
        await self._reported.wait()
        news, self._news = self._news, []
        if not self._error:
            self._reported.clear()
        elif not news:
            raise self._error
        return news

    def report(self, news: News | Exception | None) -> None:
        """Let `wait` return or raise this; to be called from the event loop."""
        if isinstance(news, Exception):
            self._error = self._error or news
        elif news:
            self._news.append(news)
        self._reported.set()


class Worker:
    """Owns writers, by the names of their models; no other thread may add texts to them.

    Jobs are submitted and cancelled from one event loop. At most `max_queue` texts of a model wait for a row.
    """

    def __init__(self, writers: dict[str, Writer], max_queue: int):
        self.writers, self.max_queue = writers, max_queue
        self.tokens = 0
        self._rates: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])  # tokens of each step
        self._places: dict[Text, tuple[Job, int]] = {}
        self._reports: list[tuple[Job, News | Exception | None]] = []  # to the event loop, of this step
        # What follows is shared with the event loop, under the lock of `_orders`.
        self._orders = threading.Condition()
        self._added: list[Job] = []
        self._cancelled: list[Job] = []
        self._unfinished: Counter[str] = Counter()  # texts of each model
        self._aborted = self._closed = False
        self._ended = threading.Event()

    def run(self) -> None:
        """Write until `close`, in the thread that calls this.

        It should be the main one: where another thread begins them, GNU's OpenMP counts more threads than there are
        cores, and lets them sleep between two products, which makes steps 1.5 times as long on two cores.
        """
        try:
            while self._take_orders():
                for name, writer in self.writers.items():
                    if writer.texts:
                        self._step(name, writer)
                if self._reports:
                    reports, self._reports = self._reports, []
                    # One call for all texts of a step: each would wake the loop, and interrupt this thread.
                    self._loop.call_soon_threadsafe(_deliver, reports)
        finally:
            self._ended.set()

    def report_to(self, loop: asyncio.AbstractEventLoop) -> None:
        """Name the event loop that jobs come from, before the first of them."""
        self._loop = loop

    def submit(self, job: Job) -> None:
        """Let the texts of a job be written. Raises QueueFull or Stopped."""
        with self._orders:
            if self._aborted or self._closed:
                raise Stopped
            if self._unfinished[job.model] + job.count > self.capacity(job.model):
                raise QueueFull
            job.left = job.count
            self._unfinished[job.model] += job.count
            self._added.append(job)
            self._orders.notify()

    def cancel(self, job: Job) -> None:
        """Stop writing the texts of a job; one that has ended is left alone."""
        if job.left:
            with self._orders:
                self._cancelled.append(job)
                self._orders.notify()

    def abort(self) -> None:
        """End all jobs with Stopped, those that are still to come too."""
        with self._orders:
            self._aborted = True
            self._orders.notify()

    def close(self) -> None:
        """Let `run` end after the step that it is in, and wait for that."""
        with self._orders:
            self._closed = True
            self._orders.notify()
        self._ended.wait()

    def capacity(self, model: str) -> int:
        """How many texts of a model there is room for, those that wait included."""
        return self.writers[model].engine.max_rows + self.max_queue

    def counts(self) -> tuple[int, int]:
        """How many texts are continued now, and how many wait."""
        active = sum(len(writer.engine.rows) for writer in self.writers.values())
        return active, max(0, sum(self._unfinished.values()) - active)

    def tokens_per_second(self) -> float:
        """The mean over the last RATE_SECONDS, pauses included."""
        since = time.monotonic() - RATE_SECONDS
        return sum(tokens for at, tokens in list(self._rates) if at > since) / RATE_SECONDS

    def _take_orders(self) -> bool:
        """Sleep until there is something to do, and add and remove texts as ordered; False when it is time to end."""
        with self._orders:
            while not (self._added or self._cancelled or self._places or self._closed):
                self._orders.wait()
            added, cancelled, self._added, self._cancelled = self._added, self._cancelled, [], []
            aborted, closed = self._aborted, self._closed
        for job in added:
            self._add(job)
        for job in cancelled:
            self._end(job, None)
        if aborted:
            for job in self._jobs():
                self._end(job, Stopped())
        return not closed

    def _add(self, job: Job) -> None:
        writer, n = self.writers[job.model], job.sampling.num_samples
        for index in range(job.count):
            text = writer.add(job.prompts[index // n], job.sampling, job.seed, index % n, job.top_logprobs)
            job.texts.append(text)
            self._places[text] = job, index

    def _step(self, name: str, writer: Writer) -> None:
        """Take a step with one model; if it fails, its jobs end, and the other models go on."""
        try:
            added = writer.step()
        except Exception as error:
            if not isinstance(error, UserError):
                traceback.print_exc()
            for job in self._jobs():
                if job.model == name:
                    self._end(job, Failed(str(error) if isinstance(error, UserError) else "a mistake of the server"))
            return
        self.tokens += len(added)
        now = time.monotonic()
        self._rates.append((now, len(added)))
        while self._rates[0][0] < now - RATE_SECONDS:
            self._rates.popleft()
        ended = 0
        for text, piece in added:
            job, index = self._places[text]
            if job.streams:
                self._reports.append((job, News(index, piece, text.tokens[-1], text.finish)))
            if text.finish:
                del self._places[text]
                ended += 1
                job.left -= 1
                if not job.left and not job.streams:
                    self._reports.append((job, None))
        if ended:
            with self._orders:
                self._unfinished[name] -= ended

    def _jobs(self) -> set[Job]:
        return {job for job, _ in self._places.values()}

    def _end(self, job: Job, error: Exception | None) -> None:
        """Stop writing what is left of a job, and report the error."""
        for text in job.texts:
            if self._places.pop(text, None):
                self.writers[job.model].remove(text)
        with self._orders:
            self._unfinished[job.model] -= job.left
        job.left = 0
        if error:
            self._reports.append((job, error))


def _deliver(reports: Sequence[tuple[Job, News | Exception | None]]) -> None:
    for job, news in reports:
        job.report(news)
