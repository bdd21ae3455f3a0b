"""A stage as a fork of a process that has imported what stages import and computed nothing: it starts in an instant."""

import os
import resource
import runpy
import shlex
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas  # noqa: F401  stages import it late, and so it is here before they fork
import peft  # noqa: F401  the same
import torch._dynamo  # noqa: F401

from nanogpt.data.sources import hub

LIMIT_SECONDS = 60
LIMIT_BYTES = 12 << 30  # of addresses: libraries take 3 GiB, and a small file may not ask for much more


@dataclass(frozen=True)
class Done:
    """How a stage ended; the status is -9 where it was killed after LIMIT_SECONDS."""

    status: int
    out: str
    err: str


def run(folder: Path, command: str, before: Callable[[], None] = lambda: None) -> Done:
    """Do what `python -m stages.<command>` does in a folder, after `before`."""
    start = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        sys.stdout.flush()
        pid = os.fork()
        if not pid:
            _be_stage(folder, shlex.split(command), before, out.fileno(), err.fileno())
        while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
            if time.monotonic() - start > LIMIT_SECONDS:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.003)
        texts = [os.pread(file.fileno(), 1 << 24, 0).decode(errors="replace") for file in (out, err)]
    return Done(os.waitstatus_to_exitcode(ended[1]), *texts)


def _be_stage(folder: Path, words: list[str], before: Callable[[], None], out: int, err: int) -> None:
    status = 70
    try:
        os.chdir(folder)
        os.dup2(out, 1)
        os.dup2(err, 2)
        resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
        socket.socket.connect, hub.PATIENCE = _refused, 0
        before()
        sys.argv = [f"{words[0]}.py", *words[1:]]
        runpy.run_module(f"stages.{words[0]}", run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
        if not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
    except BaseException:
        status = 1
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _refused(*_) -> None:
    raise ConnectionRefusedError("no test goes to the network")


def interrupt_third_step() -> None:
    """Interrupt this process in its third step of training."""
    from nanogpt.training import loop

    steps, update = [], loop.update

    def until_third(*args):
        steps.append(args)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return update(*args)

    loop.update = until_third
