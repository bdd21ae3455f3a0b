"""How mistakes reach the person at the keyboard: one message, one exit status, no traceback."""

import sys
from collections.abc import Callable

INTERRUPTED = 130


class UserError(Exception):
    """Something the user can put right; the message says what, where, and what to do."""


class BadSetting(UserError):
    """A setting with a wrong value: which key, its value, the reason and the remedy.

    `key` is relative to the section that raises it; `params` adds the section and the file.
    """

    def __init__(self, key: str, value: object, reason: str, remedy: str):
        super().__init__(f"{key} = {value!r}: {reason}; {remedy}")
        self.key, self.value, self.reason, self.remedy = key, value, reason, remedy

    def inside(self, section: str) -> "BadSetting":
        """The same complaint with its key seen from one level further out."""
        return BadSetting(f"{section}.{self.key}", self.value, self.reason, self.remedy)


def run(main: Callable[[], None]) -> None:
    """Call a stage's main and end the process as the contract says: 0, 1 (user's mistake) or 130."""
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("interrupted: nothing half-done was kept; run the same command again", file=sys.stderr)
        sys.exit(INTERRUPTED)
