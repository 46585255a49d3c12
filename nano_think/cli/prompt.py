"""Where the text to go on from comes from: a flag, a file or standard input."""

import sys
from pathlib import Path

from nano_think.core.errors import InputError, UsageError


def read_prompt(prompt: str | None, file: Path | None) -> str:
    """The text of exactly one of the two; `-` is standard input. Nothing is cut off, no line end either."""
    if (prompt is None) == (file is None):
        raise UsageError("wanted exactly one of --prompt TEXT and --file PATH (- = standard input)")
    if file is None:
        return prompt or ""
    name = "standard input" if file == Path("-") else str(file)
    try:
        content = sys.stdin.buffer.read() if file == Path("-") else file.read_bytes()
        return content.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: not UTF-8 at byte {error.start}; convert the file") from None
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror}); give a text file") from None
