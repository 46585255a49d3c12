"""What can go wrong for a user, and the exit code each kind has.

    NanoThinkError        1
    |-- UsageError        2   a flag, a name or a configuration that cannot be used
    |-- InputError        3   a data file that cannot be read as what it should be
    |-- ArtifactError     4   something that we wrote is missing, damaged or of another model
    |-- StorageError      5   no space left, or the disk refuses
    |-- LockedError       6   another run holds the artifact root
    |-- DivergedError     7   training produced no finite number
    |-- ChildError        8   a training process died
    `-- Interrupted     130   Ctrl-C (143 for SIGTERM)

A message is one line: what it is about (file and line where there is one), what was wanted, what was got, what to do.
`assert` is for our own mistakes; these are for the user's.
"""

import difflib
import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class NanoThinkError(Exception):
    """A failure that the user can act on; the command line prints its text and leaves with `exit_code`."""

    exit_code = 1


class UsageError(NanoThinkError):
    exit_code = 2


class InputError(NanoThinkError):
    exit_code = 3


class ArtifactError(NanoThinkError):
    exit_code = 4


class StorageError(NanoThinkError):
    exit_code = 5


class LockedError(NanoThinkError):
    exit_code = 6


class DivergedError(NanoThinkError):
    exit_code = 7


class ChildError(NanoThinkError):
    exit_code = 8


class Interrupted(NanoThinkError):
    """Stopped by a signal. `exit_code` is 128 + the signal's number."""

    def __init__(self, signum: int):
        super().__init__("interrupted; what was finished is kept, and the same command goes on from there")
        self.exit_code = 128 + signum


# The same codes read backwards: a child process leaves with one, and its parent raises the same kind of error again.
BY_EXIT_CODE = {kind.exit_code: kind for kind in NanoThinkError.__subclasses__() if kind is not Interrupted}


def nearest(name: str, known: Iterable[str]) -> str:
    """`" Did you mean 'x'?"` for the closest known name, then all of them: the tail of an unknown-name message."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return f"{hint} Known: {', '.join(names)}."


@contextmanager
def storage(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals while writing below `path` into a `StorageError` that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(f"{path}: no space left on the device; free some or choose another --root") from error
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise StorageError(
                f"{path}: too many files are open; close some, or raise the limit (ulimit -n)"
            ) from error
        refusals = (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG)
        if error.errno in (*refusals, errno.EISDIR, errno.ENOTEMPTY):
            raise StorageError(f"{path}: cannot be written ({error.strerror}); choose another --root") from error
        raise
