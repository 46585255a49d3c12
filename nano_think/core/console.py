"""Text for terminals."""

import sys


def clean(text: str) -> str:
    """Text without control characters but line ends and tabs: what a model says must not steer the terminal."""
    return "".join(c for c in text if c in "\n\t" or not (ord(c) < 32 or 127 <= ord(c) < 160))


def flush_text(text: str) -> None:
    """Print cleaned text at once, without an end of line."""
    sys.stdout.write(clean(text))
    sys.stdout.flush()
