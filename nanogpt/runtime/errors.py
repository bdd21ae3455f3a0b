"""Mistakes of the person at the keyboard; `process.run_stage` prints them as one message without a traceback."""


class UserError(Exception):
    """Something that the user can put right; the message says what, where, and what to do."""


class BadSetting(UserError):
    """A setting with a wrong value: which key, its value, the reason and the remedy.

    `key` is relative to the section that raises it; `params` adds the section and the file.
    """

    def __init__(self, key: str, value: object, reason: str, remedy: str):
        super().__init__(f"{key} = {shorten(repr(value))}: {reason}; {remedy}")
        self.key, self.value, self.reason, self.remedy = key, value, reason, remedy

    def __reduce__(self) -> tuple:  # so that a process can hand it to another
        return BadSetting, (self.key, self.value, self.reason, self.remedy)

    def inside(self, section: str) -> "BadSetting":
        """Return the same error with its key prefixed by the section around it."""
        return BadSetting(f"{section}.{self.key}", self.value, self.reason, self.remedy)


def shorten(value: object, limit: int = 120) -> str:
    """Return the text of `value` on one line of at most `limit` characters, for a message."""
    text = " ".join(str(value).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
