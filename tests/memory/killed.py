"""A writer to be killed, as a program: `python killed.py ROOT append`, `python killed.py ROOT forget RECORDS`."""

import os
import signal
import sys
from pathlib import Path

from conversations import open_memory, remember

from nano_think.memory import journal
from nano_think.memory.conversation import Conversations


def append_for_ever(memory: Conversations) -> None:
    """Print the number of each turn when it has been acknowledged."""
    n = memory.begin()
    while True:
        remember(memory, n, rows=40)
        print(n, flush=True)
        n += 1


def forget_and_die(memory: Conversations, records: int) -> None:
    """Die after so many records of the new log."""
    plain = journal.pack
    written = 0

    def pack(payload: bytes) -> bytes:
        nonlocal written
        if written == records:
            os.kill(os.getpid(), signal.SIGKILL)
        written += 1
        return plain(payload)

    journal.pack = pack
    memory.forget([1])


if __name__ == "__main__":
    opened = open_memory(Path(sys.argv[1]), limit=512)
    if sys.argv[2] == "append":
        append_for_ever(opened)
    else:
        forget_and_die(opened, int(sys.argv[3]))
