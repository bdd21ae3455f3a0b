"""Turns tokens into text as they come: no character in parts, and nothing from a stop string on."""

import codecs
from collections.abc import Sequence

from nanogpt.data.tokens.tokenizer import Tokenizer


class TextStream:
    """The text of a growing list of tokens. Bytes that are no UTF-8 become U+FFFD, as in `Tokenizer.decode`.

    `stopped` tells that a stop string has come: the text ends before it.
    """

    def __init__(self, tok: Tokenizer, stop: Sequence[str] = ()):
        self.pieces, self.stop = tok.pieces, list(stop)
        self.stopped = False
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        self._held = ""  # may be the beginning of a stop string

    def add(self, token: int) -> str:
        """The text that is certain after one more token."""
        return self._release(self._held + self._decode(self.pieces[token]), end=False)

    def finish(self) -> str:
        """The rest, after the last token."""
        return self._release(self._held + self._decode(b"", True), end=True)

    def _release(self, text: str, end: bool) -> str:
        if self.stopped:
            return ""
        found = [place for place in map(text.find, self.stop) if place >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        longest = 0 if end else max((_overlap(text, stop) for stop in self.stop), default=0)
        self._held = text[len(text) - longest :]
        return text[: len(text) - longest]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that `stop` begins with."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
