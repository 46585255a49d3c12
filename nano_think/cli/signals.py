"""What SIGINT and SIGTERM do: the first ends what we do in good order, a second one ends us there and then."""

import os
import signal
import sys
import threading
from types import FrameType

SHOW_CURSOR = b"\x1b[?25h\n"
AGAIN_SECONDS = 0.05

_received: list[int] = []


class Stopped(KeyboardInterrupt):
    """SIGINT or SIGTERM: both are felt like Ctrl-C, which no `except Exception` on the way swallows."""

    def __init__(self, signum: int):
        super().__init__()
        self.signum = signum


def leave_at_the_second_signal() -> None:
    """Raise `Stopped` at the first signal; leave at the second. What we have started notices that we are gone, and goes
    too.
    """
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _handle)
    sys.unraisablehook = _raise_again


def _raise_again(lost: "sys.UnraisableHookArgs") -> None:
    """Python drops what is raised where it clears up (a weak reference's callback, a `__del__`), which the libraries
    that we import do much of. A signal that was lost there comes once more.
    """
    if not isinstance(lost.exc_value, Stopped):
        sys.__unraisablehook__(lost)
        return
    _received.clear()
    again = threading.Timer(AGAIN_SECONDS, os.kill, (os.getpid(), lost.exc_value.signum))
    again.daemon = True
    again.start()


def _handle(signum: int, frame: FrameType | None) -> None:
    if _received:
        if sys.stderr.isatty():
            os.write(sys.stderr.fileno(), SHOW_CURSOR)
        os._exit(128 + signum)
    _received.append(signum)
    raise Stopped(signum)


def go_on_after(interrupt: KeyboardInterrupt) -> None:
    """Let a Ctrl-C end no more than what has caught it: the next one counts as a first again. What is to end the
    process, SIGTERM, is raised on.
    """
    if getattr(interrupt, "signum", signal.SIGINT) != signal.SIGINT:
        raise interrupt
    _received.clear()
