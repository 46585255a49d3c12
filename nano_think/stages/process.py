"""Training processes: started in a session of their own, listened to line by line, and never left behind.

A child dies with its parent: it holds the read end of a pipe as its standard input, and leaves when that ends.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nano_think.core.errors import BY_EXIT_CODE, ChildError, Interrupted

Log = Callable[[dict[str, Any]], None]
GRACE_SECONDS = 5.0
_live: set[subprocess.Popen] = set()
_guard = threading.Lock()
_stopping = threading.Event()


def accelerate_command(module: str, *arguments: str, processes: int = 1) -> list[str]:
    """`accelerate launch -m module`, with everything said that it would otherwise warn about."""
    count = str(processes)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", count, "--num_machines", "1"]
    quiet = ["--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1"]
    return [*launch, *quiet, "--main_process_port", "0", "-m", module, *arguments]


def run_child(name: str, command: list[str], env: Mapping[str, str], log: Log) -> None:
    """Run a command to its end; lines of JSON that it prints go to `log`, the last others into the error if it fails.

    Raises the error that the child's exit code stands for, with the child's own message, or `ChildError` that names the
    signal it died of.
    """
    other: deque[str] = deque(maxlen=20)
    with _started(command, env) as process:
        for line in process.stdout or ():
            event = _parse(line)
            if event is None:
                other.append(line.rstrip())
            elif event.get("event") == "error":
                other.append(event["message"])
            else:
                log(event)
        code = process.wait()
    if _stopping.is_set():
        raise Interrupted(signal.SIGINT)
    if code:
        raise _failure(name, code, list(other))


@contextlib.contextmanager
def _started(command: list[str], env: Mapping[str, str]) -> Iterator[subprocess.Popen]:
    with _guard:
        if _stopping.is_set():
            raise Interrupted(signal.SIGINT)
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            encoding="utf-8", errors="replace", start_new_session=True, env=dict(env),
        )  # fmt: skip
        _live.add(process)
    try:
        yield process
    finally:
        _end([process])
        with _guard:
            _live.discard(process)


def _parse(line: str) -> dict[str, Any] | None:
    if line.startswith('{"event"'):
        with contextlib.suppress(ValueError):
            return json.loads(line)
    return None


def _failure(name: str, code: int, lines: list[str]) -> Exception:
    said = lines[-1] if lines else "it said nothing"
    died = next((line for line in reversed(lines) if "died with" in line.lower()), "")
    if code < 0 or "SIG" in died:
        what = (
            signal.Signals(-code).name
            if code < 0
            else died.rpartition("SIG")[1] + died.rpartition("SIG")[2].strip(".>) ")
        )
        hint = " (out of memory?)" if "KILL" in what else ""
        return ChildError(
            f"{name}: its process was killed by {what}{hint}; run again to go on from its last checkpoint"
        )
    kind = BY_EXIT_CODE.get(code)
    if kind and kind.exit_code > 1:
        return kind(said)
    return ChildError(f"{name}: its process ended with exit code {code}: {said}")


def _end(processes: list[subprocess.Popen]) -> None:
    """Ask the processes' groups to end, wait a little, then make them."""
    for process in processes:
        _signal(process, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    for process in processes:
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        _signal(process, signal.SIGKILL)
        process.wait()


def _signal(process: subprocess.Popen, signum: int) -> None:
    if process.poll() is None or signum == signal.SIGKILL:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signum)


def stop_all() -> None:
    """End every child and start no more: what a flow does when it is interrupted."""
    _stopping.set()
    with _guard:
        processes = list(_live)
    _end(processes)


def allow_again() -> None:
    """Forget an earlier `stop_all`, at the start of a run."""
    _stopping.clear()


def die_with_parent() -> None:
    """In a child: end this process's group when standard input ends, which it does when the parent is gone."""

    def watch() -> None:
        with contextlib.suppress(OSError):
            os.read(0, 1)
        os.killpg(os.getpgid(0), signal.SIGTERM)
        time.sleep(GRACE_SECONDS)
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def emit(event: dict[str, Any]) -> None:
    """In a child: one line of JSON to the parent."""
    print(json.dumps(event), flush=True)


def child_environment(threads: int, more: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with the thread counts of a training and unbuffered, quiet Python."""
    count = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    home = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
    return (
        os.environ
        | count
        | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"}
        | dict(more)
    )
