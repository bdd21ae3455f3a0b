"""Run a stage's main and end its process: when it is done, on a mistake, on a signal, or with its parent process."""

import contextlib
import errno
import os
import select
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Sequence

from nanogpt.runtime.errors import UserError

INTERRUPTED = 130
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Errors of the disk, which its owner can put right; any other OSError is a mistake of ours.
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
ENDS_WITH_PARENT = "NANOGPT_ENDS_WITH_PARENT"  # environment variable that `launch_stage` sets; DVC_ROOT means the same
RANK = "RANK"  # environment variable of torchrun: the number of a process among those of its run
SHELLS = ("sh", "bash", "dash", "zsh", "ksh", "fish", "busybox")
WATCH_SECONDS = 0.5
# packages that one feature needs, and the file in requirements/ that installs them
OPTIONAL = {
    "gguf": "gguf", "lm_eval": "lm-eval", "starlette": "serve", "tensorboard": "tensorboard", "uvicorn": "serve",
}  # fmt: skip

_final_checks: list[Callable[[], None]] = []


def add_final_check(check: Callable[[], None]) -> None:
    """Let `run_stage` call `check` when main is done; an exception of it ends the process as one of main does."""
    _final_checks.append(check)


def run_final_checks() -> None:
    """Call all checks of `add_final_check` now, for a main with something to do after them."""
    for check in _final_checks:
        check()


def run_stage(main: Callable[[], None]) -> None:
    """Call a stage's main; exit with status 1 on a mistake of the user (one line on stderr) and 130 if interrupted.

    SIGTERM and SIGHUP interrupt like Ctrl-C. A stage that `dvc` started is interrupted when that dvc dies, so that it
    does not write over what the next `dvc repro` makes.
    """
    _install_handlers(_interrupt)
    sys.unraisablehook = _reraise_lost_interrupt
    if {ENDS_WITH_PARENT, "DVC_ROOT", RANK}.intersection(os.environ):
        threading.Thread(target=_interrupt_with_parent, daemon=True).start()
    try:
        main()
        run_final_checks()
        sys.stdout.flush()
    except UserError as error:
        sys.exit(f"error: {error}")
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in OPTIONAL:
            raise
        install = f"pip install -r requirements/{OPTIONAL[package]}.txt"
        sys.exit(f"error: this needs the package {package}, which is not installed: {install}")
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _stdout_is_closed():  # by `| head`, say
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what Python writes there as it ends
            sys.exit(128 + signal.SIGPIPE)
        if error.errno not in DISK:
            raise
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(f"error: {where}{error.strerror}; put that right, and run the same command again")
    except KeyboardInterrupt as interrupt:
        if is_first():
            _write_stderr(f"interrupted: {str(interrupt) or 'nothing half-done was kept; run the same command again'}")
        sys.exit(INTERRUPTED)


def is_first() -> bool:
    """Whether this process speaks for all that torchrun has started, if it has started any."""
    return os.environ.get(RANK, "0") == "0"


def launch_stage(command: Sequence[str]) -> int:
    """Run a stage that ends with this process and shares its terminal; return its status, -N if signal N ended it.

    Raises KeyboardInterrupt if the stage is interrupted, or if this process is, once the stage has saved its state.
    """
    with subprocess.Popen(command, env=os.environ | {ENDS_WITH_PARENT: "1"}) as child:
        try:
            status = child.wait()
        except KeyboardInterrupt:
            child.terminate()  # does no harm if Ctrl-C has reached it too
            child.wait()
            raise
    if status == INTERRUPTED:
        raise KeyboardInterrupt
    return status


@contextlib.contextmanager
def defer_signals() -> Iterator[types.SimpleNamespace]:
    """Yield an object whose `requested` the first signal in the block sets; Ctrl-C after that interrupts at once.

    Other signals after the first one are ignored: when a terminal closes or a container is evicted, `dvc` gets them
    too, and a stage whose dvc is gone is signalled again. In threads other than the main one no signal is seen.
    """
    stop = types.SimpleNamespace(requested=False)

    def request_stop(number, frame):
        again, stop.requested = stop.requested, True
        if again and number == signal.SIGINT:
            _interrupt(number, frame)
        if not again and is_first():
            _write_stderr("stopping after this step; Ctrl-C then stops at once")

    before = _install_handlers(request_stop)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if stop.requested:
            _ignore_further_signals()


def _interrupt(number, frame):
    _ignore_further_signals()
    raise KeyboardInterrupt


def _ignore_further_signals() -> None:
    """Ignore all signals but Ctrl-C from now on, so that they do not interrupt a process that is ending already."""
    for number in set(SIGNALS) - {signal.SIGINT}:
        if signal.getsignal(number) is _interrupt:
            signal.signal(number, _ignore_signal)


def _ignore_signal(number, frame):
    pass


def _stdout_is_closed() -> bool:
    """Whether nothing reads the pipe that stdout is."""
    poll = select.poll()
    poll.register(1, 0)  # POLLERR and POLLHUP are always looked for
    return bool(poll.poll(0))


def _write_stderr(text: str) -> None:
    """Print to stderr, also from a signal handler; if the terminal is closed, discard all later output."""
    try:
        os.write(2, f"{text}\n".encode())
    except OSError:
        closed, devnull = os.fstat(2), os.open(os.devnull, os.O_WRONLY)
        for fd in (1, 2):
            if os.path.samestat(os.fstat(fd), closed):
                os.dup2(devnull, fd)


def _reraise_lost_interrupt(lost) -> None:
    """Send the signal again if Python has dropped its KeyboardInterrupt, as it does in some callbacks of imports."""
    if not issubclass(lost.exc_type, KeyboardInterrupt):
        return sys.__unraisablehook__(lost)
    for number in SIGNALS:
        if signal.getsignal(number) is _ignore_signal:
            signal.signal(number, _interrupt)
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM if ignored else signal.SIGINT)).start()


def _install_handlers(handler: Callable) -> dict[signal.Signals, Callable]:
    """Handle all SIGNALS that are not ignored (as under nohup); return the handlers before."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    before = {number: signal.getsignal(number) for number in SIGNALS}
    return {number: signal.signal(number, handler) for number, old in before.items() if old is not signal.SIG_IGN}


def _interrupt_with_parent() -> None:
    """Wait until the process that started this stage ends, shells between them left out; then interrupt the stage."""
    import psutil  # takes 20 ms, for which no `--help` has to wait

    try:
        parent = next(parent for parent in psutil.Process().parents() if parent.name() not in SHELLS)
        # Else ours has ended already, and another process adopted us; torchrun's processes have groups of their own.
        ours = RANK in os.environ or os.getpgid(parent.pid) == os.getpgrp()
        while ours and parent.is_running() and parent.status() != psutil.STATUS_ZOMBIE:
            time.sleep(WATCH_SECONDS)
    except (psutil.Error, ProcessLookupError, StopIteration):  # gone already
        pass
    _write_stderr("the process that started this stage has ended")
    os.kill(os.getpid(), signal.SIGTERM)
