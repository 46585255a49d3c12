"""Programs that a model wrote, run apart: a process of its own with limits on time, memory, files and processes.

It is a fence against accidents, not against an attacker: where the kernel allows it there is no network, but what this
user may read can be read. Run the task on code of a model that you do not trust in a virtual machine.
"""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

SECONDS, MEMORY, OUTPUT = 5, 512 * 2**20, 2**20
"""Limits of a program: processor time and wall time (seconds), address space and what it writes (bytes)."""

# Set inside the new process, before a word of the program is read: code between fork and exec of a process with threads
# may hang. 1 is PR_SET_PDEATHSIG; 0x50000000 are CLONE_NEWUSER and CLONE_NEWNET, for a network without a door.
LAUNCHER = """
import ctypes, resource, signal, sys
libc = ctypes.CDLL(None)
libc.prctl(1, signal.SIGKILL)
libc.unshare(0x50000000)
limits = dict(CPU={seconds}, AS={memory}, FSIZE={output}, NPROC=0, NOFILE=16, CORE=0)
for name, most in limits.items():
    resource.setrlimit(getattr(resource, "RLIMIT_" + name), (most, most))
signal.alarm({seconds})
program = sys.stdin.read()
exec(compile(program, "answer", "exec"), {{"__name__": "__main__"}})
"""


def runs_well(program: str, seconds: int = SECONDS) -> bool:
    """Whether a program comes to its end without an error. One that leaves early, however politely, does not."""
    word = secrets.token_hex(16)
    launcher = LAUNCHER.format(seconds=seconds, memory=MEMORY, output=OUTPUT)
    with tempfile.TemporaryDirectory(prefix="nano_think-run-") as folder:
        said = Path(folder) / "said"
        with said.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", launcher], cwd=folder, env={}, start_new_session=True,
                stdin=subprocess.PIPE, stdout=file, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            try:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.communicate(f"{program}\nprint({word!r})\n".encode(errors="replace"), timeout=seconds + 5)
            finally:
                _end(process)
        return process.returncode == 0 and said.read_bytes().endswith(f"{word}\n".encode())


def _end(process: subprocess.Popen) -> None:
    """Nothing of the program's session stays."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
