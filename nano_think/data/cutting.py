"""Texts that are too long for one document, cut into pieces where a reader would pause, in bounded memory."""

import re
from collections.abc import Iterator
from typing import BinaryIO

# Unbroken letters or signs, in characters. No language has such words; an engine takes them for one, and holds some
# hundred bytes for each of its characters.
MAX_RUN = 2**16

_PAUSES = (b"\n\n", b"\n", b" ")
_RUN = re.compile(r"[^\W\d_]++|[^\w\s]++")


def cut_bytes(file: BinaryIO, max_bytes: int) -> Iterator[bytes]:
    """The bytes of `file` in pieces of at most `max_bytes`; one and a bit of them are held.

    A piece ends after the last paragraph, line or word that ends in its last quarter, and never inside a UTF-8
    sequence (unless `max_bytes` is shorter than one). Nothing is lost: the pieces put together are the file.
    """
    held = b""
    while True:
        held += file.read(max_bytes + 1 - len(held))
        if len(held) <= max_bytes:
            if held:
                yield held
            return
        place = _place(held, max_bytes)
        yield held[:place]
        held = held[place:]


def _place(block: bytes, size: int) -> int:
    for pause in _PAUSES:
        found = block.rfind(pause, size - size // 4, size)
        if found >= 0:
            return found + len(pause)
    place = size
    while place > size - 4 and block[place] & 0xC0 == 0x80:
        place -= 1
    return place if place > 0 else size


def cut_runs(text: str) -> list[str]:
    """The text, cut after every `MAX_RUN` letters or signs in a row; almost always whole."""
    if not _has_gap(text):
        return [text]
    runs = (match.span() for match in _RUN.finditer(text))
    cuts = [place for start, end in runs for place in range(start + MAX_RUN, end, MAX_RUN)]
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, None], strict=True)]


def _has_gap(text: str) -> bool:
    """Whether `MAX_RUN` characters follow each other without white space; takes few looks at a text of words."""
    start = 0
    while start + MAX_RUN <= len(text):
        back = range(start + MAX_RUN - 1, start - 1, -1)
        last = next((place for place in back if text[place].isspace()), None)
        if last is None:
            return True
        start = last + 1
    return False
