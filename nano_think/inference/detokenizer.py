"""Bytes as they come to text that never holds half a character, and that ends before a stop string."""

import codecs
from collections.abc import Sequence


class StreamDecoder:
    """Feed bytes, get the text that is certain so far; what is no UTF-8 becomes U+FFFD, as when decoded at once."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, piece: bytes) -> str:
        return self._decoder.decode(piece)

    def end(self) -> str:
        """What was held back because the next byte might have completed it."""
        return self._decoder.decode(b"", final=True)


class TextStream:
    """`StreamDecoder`, up to the stop string that is complete first (of those that end together, the longest).

    What may be the beginning of a stop string is held back until it is known not to be one: `stopped` is true once one
    was found, and nothing comes any more.
    """

    def __init__(self, stops: Sequence[str] = ()):
        self.stopped = False
        self._decoder, self._stops, self._held = StreamDecoder(), stops, ""

    def feed(self, piece: bytes) -> str:
        return self._take(self._decoder.feed(piece))

    def end(self) -> str:
        """What was held back."""
        text = self._take(self._decoder.end()) + self._held
        self._held = ""
        return text

    def _take(self, new: str) -> str:
        if self.stopped or not new:
            return ""
        text = self._held + new
        found = [(text.index(stop) + len(stop), text.index(stop)) for stop in self._stops if stop in text]
        self.stopped = bool(found)
        certain = min(found)[1] if found else len(text) - self._open(text)
        self._held = "" if found else text[certain:]
        return text[:certain]

    def _open(self, text: str) -> int:
        """The length of the longest end of a text that a stop string begins with."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        ends = range(min(longest, len(text)), 0, -1)
        return next((n for n in ends if any(stop.startswith(text[-n:]) for stop in self._stops)), 0)
