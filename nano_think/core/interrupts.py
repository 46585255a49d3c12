"""SIGINT and SIGTERM as a request that a loop can honour at a good moment; a second one leaves at once."""

import os
import signal
from types import FrameType

from nano_think.core.errors import Interrupted

_requested = 0
_asked = 0
_installed = False


def install() -> None:
    """From now on the first SIGINT or SIGTERM is only noted, and the second ends the process at once."""
    global _installed
    _installed = True
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _note)


def _note(signum: int, frame: FrameType | None) -> None:
    global _requested
    if _requested:
        os._exit(128 + signum)
    _requested = signum


def requested() -> int:
    """The number of the signal that asked us to stop, or 0."""
    return _requested or _asked


def ask(signum: int) -> bool:
    """Ask for the same from inside, without a signal, which might be taken for a second one; False if nobody heeds."""
    global _asked
    _asked = signum
    return _installed


def leave_if_requested() -> None:
    """Raise `Interrupted` if somebody asked us to stop."""
    if requested():
        raise Interrupted(requested())
