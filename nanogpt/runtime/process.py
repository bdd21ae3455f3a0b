"""How a stage's process ends: when it is done, on a mistake, on a signal, or with the process that started it."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from nanogpt.runtime.errors import UserError

INTERRUPTED = 130
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# What the disk says, and its owner can put right; any other OSError is a mistake of ours.
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
ENDS_WITH_PARENT = "NANOGPT_ENDS_WITH_PARENT"  # in the environment of what `launch` starts; DVC_ROOT says the same
SHELLS = ("sh", "bash", "dash", "zsh", "ksh", "fish", "busybox")
WATCH_SECONDS = 0.5

_final_checks: list[Callable[[], None]] = []


def add_final_check(check: Callable[[], None]) -> None:
    """Have `run` call this when main is done; what it raises ends the process as if main had raised it."""
    _final_checks.append(check)


def run_final_checks() -> None:
    """What `before_success` was given, for a main with something to do after it."""
    for check in _final_checks:
        check()


def run_stage(main: Callable[[], None]) -> None:
    """Call a stage's main and end the process as the contract says: 0, 1 (user's mistake) or 130.

    SIGTERM and SIGHUP interrupt like Ctrl-C. A stage that `dvc` started is interrupted when that dies, so
    that it cannot write over what the next `dvc repro` makes.
    """
    _install_handlers(_interrupt)
    sys.unraisablehook = _reraise_lost_interrupt
    if ENDS_WITH_PARENT in os.environ or "DVC_ROOT" in os.environ:
        threading.Thread(target=_interrupt_with_parent, daemon=True).start()
    try:
        main()
        run_final_checks()
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        if error.errno not in DISK:
            raise
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(f"error: {where}{error.strerror}; put that right, and run the same command again")
    except KeyboardInterrupt as stop:
        _write_stderr(f"interrupted: {str(stop) or 'nothing half-done was kept; run the same command again'}")
        sys.exit(INTERRUPTED)


def launch_stage(command: Sequence[str]) -> int:
    """Run a stage that ends with this process and shares its terminal: its status, negative where a signal ended it.

    Raises KeyboardInterrupt where it is interrupted, or this process, which then tells it and waits until it has saved.
    """
    with subprocess.Popen(command, env=os.environ | {ENDS_WITH_PARENT: "1"}) as child:
        try:
            status = child.wait()
        except KeyboardInterrupt:
            child.terminate()  # to have got Ctrl-C too does no harm
            child.wait()
            raise
    if status == INTERRUPTED:
        raise KeyboardInterrupt
    return status


class Stop:
    """Whether this process was asked to stop."""

    requested = False


@contextlib.contextmanager
def defer_signals() -> Iterator[Stop]:
    """In the block a signal to stop only sets `requested`; Ctrl-C after that interrupts at once.

    Other signals after the first one change nothing: where a terminal closes or a container is evicted, `dvc` gets
    them too, and a stage whose dvc is gone is told again. Outside of the main thread, which alone can handle signals,
    none is seen.
    """
    stop = Stop()

    def ask(number, frame):
        requested, stop.requested = stop.requested, True
        if requested and number == signal.SIGINT:
            _interrupt(number, frame)
        if not requested:
            _write_stderr("stopping after this step; Ctrl-C then stops at once")

    before = _install_handlers(ask)
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
    """What is ending need not be told again, which would interrupt its last words; Ctrl-C still does."""
    for number in set(SIGNALS) - {signal.SIGINT}:
        if signal.getsignal(number) is _interrupt:
            signal.signal(number, _ignore_signal)


def _ignore_signal(number, frame):
    pass


def _write_stderr(text: str) -> None:
    """Print to stderr, also in the midst of another print; where nobody reads any more, throw away what follows."""
    try:
        os.write(2, f"{text}\n".encode())
    except OSError:  # the terminal was closed
        closed, nobody = os.fstat(2), os.open(os.devnull, os.O_WRONLY)
        for fd in (1, 2):
            if os.path.samestat(os.fstat(fd), closed):
                os.dup2(nobody, fd)


def _reraise_lost_interrupt(lost) -> None:
    """Python drops what is raised in some callbacks, as of its imports: an interruption that fell there comes again."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        for number in SIGNALS:
            if signal.getsignal(number) is _ignore_signal:
                signal.signal(number, _interrupt)
        ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM if ignored else signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(lost)


def _install_handlers(handler: Callable) -> dict[signal.Signals, Callable]:
    """Handle the signals that are not ignored (as under nohup); what handled them before."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    before = {number: signal.getsignal(number) for number in SIGNALS}
    return {number: signal.signal(number, handler) for number, old in before.items() if old is not signal.SIG_IGN}


def _interrupt_with_parent() -> None:
    import psutil  # takes 20 ms, for which no `--help` has to wait

    try:
        parent = next(parent for parent in psutil.Process().parents() if parent.name() not in SHELLS)
        ours = os.getpgid(parent.pid) == os.getpgrp()  # else it had ended before, and another process has taken us in
        while ours and parent.is_running() and parent.status() != psutil.STATUS_ZOMBIE:
            time.sleep(WATCH_SECONDS)
    except (psutil.Error, ProcessLookupError, StopIteration):  # gone already
        pass
    _write_stderr("what started this stage has ended")
    os.kill(os.getpid(), signal.SIGTERM)
