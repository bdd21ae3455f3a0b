"""Mistakes of the person at the keyboard; `process.run` turns them into one message without a traceback."""


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
