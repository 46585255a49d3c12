"""Text for terminals."""

import sys
import unicodedata
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

# Columns of what is not shown on a terminal but written to a file or piped on: nobody wants it folded.
WIDE = 200
HALVES = frozenset(map(chr, range(0xD800, 0xE000)))


def clean(text: str) -> str:
    """Text without control characters but line ends and tabs: what a model says must not steer the terminal. Without
    halves of surrogate pairs too, which no terminal can be sent.
    """
    return "".join(c for c in text if c in "\n\t" or not (ord(c) < 32 or 127 <= ord(c) < 160 or c in HALVES))


def spelled(text: str) -> Iterator[tuple[str, bool]]:
    """The characters of a text, each with whether it is spelled out because it would not show: an escape becomes ␛, a
    mark that turns the direction of writing <U+202E>.

    Line ends, and what joins letters of some scripts and parts of an emoji, stay as they are.
    """
    for character in text:
        code = ord(character)
        if character in "\n\u200c\u200d" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp"):
            yield character, False
        elif code < 32:
            yield chr(0x2400 + code), True
        else:
            yield f"<U+{code:04X}>", True


def flush_text(text: str) -> None:
    """Print cleaned text at once, without an end of line."""
    sys.stdout.write(clean(text))
    sys.stdout.flush()


def console() -> "Console":
    """A console that prints text as it is: no markup, no guessed colours, "?" for what the terminal cannot show."""
    from rich.console import Console

    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    width = None if sys.stdout.isatty() else WIDE
    return Console(markup=False, highlight=False, emoji=False, width=width)


def size(count: float) -> str:
    """Bytes in powers of ten."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.2f} {name}"
    return f"{count:.0f} B"
