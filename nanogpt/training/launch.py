"""Runs a training stage in several processes of this machine, by the same engine as `torchrun`."""

import contextlib
import logging
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from nanogpt.hardware import process_group
from nanogpt.hardware.device import choose_device
from nanogpt.runtime.errors import UserError
from nanogpt.runtime.process import INTERRUPTED, RANK
from nanogpt.training.settings import TrainSettings

SAVING_SECONDS = 30  # that processes have to end their step and save after a signal
FIRST_SPEAKS_SECONDS = 2.0  # after which a process says what stops it, if the first one has not ended the run by then


def run_in_processes(settings: TrainSettings, body: Callable[[], dict]) -> dict | None:
    """Call `body` in `settings.processes` processes, or in those that torchrun has started; return what it returns.

    In the processes this is the script that calls it, with its flags. Only the first of them returns something; where
    they are started here, nothing is returned once they have ended.
    Raises UserError and KeyboardInterrupt as `body` does, and UserError for a process that ended otherwise. Exits where
    a process started here has said why.
    """
    if settings.processes > 1 and RANK not in os.environ:
        return _start(settings.processes)
    with process_group.join(settings.timeout_s, choose_device(settings.device)):
        if process_group.rank() == 0:
            return body()
        return _follow(body)


def _follow(body: Callable[[], dict]) -> None:
    """Do what the first process does, without its words; what stops this process alone is said."""
    name = process_group.describe()
    try:
        with open(os.devnull, "w") as devnull, contextlib.redirect_stderr(devnull):
            body()
    except UserError as error:
        time.sleep(FIRST_SPEAKS_SECONDS)
        raise UserError(f"{name}: {error}") from None
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _start(count: int) -> None:
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable(logging.ERROR)  # what torch's starter says stands below, shorter
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    config = LaunchConfig(
        1, 1, count, run_id=uuid.uuid4().hex, rdzv_backend="c10d", rdzv_endpoint="localhost:0", local_addr="localhost",
        max_restarts=0, shutdown_timeout=SAVING_SECONDS,
    )  # fmt: skip
    script = f"stages.{Path(sys.argv[0]).stem}"  # however it was called: see stages/__main__.py
    try:
        elastic_launch(config, sys.executable)("-m", script, *sys.argv[1:])
    except SignalException:
        sys.exit(INTERRUPTED)  # the first process has said so
    except ChildFailedError as error:
        failures = {rank: failure.exitcode for rank, failure in error.failures.items()}
        killed = [(rank, -status) for rank, status in failures.items() if status < 0]
        if not killed and set(failures.values()) == {INTERRUPTED}:
            sys.exit(INTERRUPTED)
        if not killed:
            sys.exit(1)  # a process has said why
        rank, number = killed[0]
        kept = "the newest saved state is kept, and the same command resumes from there"
        raise UserError(f"process {rank} of {count} was ended by {signal.Signals(number).name}; {kept}") from None
