"""How a stage's process ends: when it is done, on a mistake, on a signal, or with the `dvc` that started it."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

from nanogpt.errors import UserError

INTERRUPTED = 130
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SHELLS = ("sh", "bash", "dash", "zsh", "ksh", "fish", "busybox")
WATCH_SECONDS = 0.5


def run(main: Callable[[], None]) -> None:
    """Call a stage's main and end the process as the contract says: 0, 1 (user's mistake) or 130.

    SIGTERM and SIGHUP interrupt like Ctrl-C. A stage that `dvc` started is interrupted when that dies, so
    that it cannot write over what the next `dvc repro` makes.
    """
    _catch(_interrupt)
    sys.unraisablehook = _once_more
    if "DVC_ROOT" in os.environ:
        threading.Thread(target=_end_with_dvc, daemon=True).start()
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt as stop:
        print(f"interrupted: {str(stop) or 'nothing half-done was kept; run the same command again'}", file=sys.stderr)
        sys.exit(INTERRUPTED)


class Stop:
    """Whether this process was asked to stop."""

    asked = False


@contextlib.contextmanager
def deferred() -> Iterator[Stop]:
    """In the block the first signal to stop only sets `asked`; a second one interrupts at once.

    Outside of the main thread, which alone can handle signals, none is seen.
    """
    stop = Stop()

    def ask(number, frame):
        if stop.asked:
            _interrupt(number, frame)
        stop.asked = True
        print("stopping after this step; once more to stop at once", file=sys.stderr)

    before = _catch(ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number, frame):
    raise KeyboardInterrupt


def _once_more(lost) -> None:
    """Python drops what is raised in some callbacks, as of its imports: an interruption that fell there comes again."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
    else:
        sys.__unraisablehook__(lost)


def _catch(handler: Callable) -> dict[signal.Signals, Callable]:
    """Handle the signals that are not ignored (as under nohup); what handled them before."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    before = {number: signal.getsignal(number) for number in SIGNALS}
    return {number: signal.signal(number, handler) for number, old in before.items() if old is not signal.SIG_IGN}


def _end_with_dvc() -> None:
    import psutil  # takes 20 ms, for which no `--help` has to wait

    try:
        dvc = next(parent for parent in psutil.Process().parents() if parent.name() not in SHELLS)
        ours = os.getpgid(dvc.pid) == os.getpgrp()  # else dvc had ended before, and another process has taken us in
        while ours and dvc.is_running() and dvc.status() != psutil.STATUS_ZOMBIE:
            time.sleep(WATCH_SECONDS)
    except (psutil.Error, ProcessLookupError, StopIteration):  # gone already
        pass
    print("the dvc that started this stage has ended", file=sys.stderr)
    os.kill(os.getpid(), signal.SIGTERM)
