"""Bytes as they come to text that never holds half a character."""

import codecs


class StreamDecoder:
    """Feed bytes, get the text that is certain so far; what is no UTF-8 becomes U+FFFD, as when decoded at once."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, piece: bytes) -> str:
        return self._decoder.decode(piece)

    def end(self) -> str:
        """What was held back because the next byte might have completed it."""
        return self._decoder.decode(b"", final=True)
