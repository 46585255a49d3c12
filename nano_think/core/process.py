"""Child processes: started in a session of their own, listened to line by line, and never left behind.

A child dies with its parent: it holds the read end of a pipe as its standard input, and leaves when that ends.
"""

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from nano_think.core import interrupts
from nano_think.core.errors import BY_EXIT_CODE, ChildError, Interrupted

Log = Callable[[dict[str, Any]], None]
GRACE_SECONDS, WATCH_SECONDS = 5.0, 0.5
# glibc's allocator gives a large block back as soon as it is freed, and the kernel zeroes it page by page when it is
# asked for again: a step of training would pay for its memory anew. With these it keeps what it has, in large pages.
KEEP_MEMORY = ":".join(
    f"glibc.malloc.{name}={value}"
    for name, value in {"hugetlb": 1, "mmap_threshold": 2**32, "trim_threshold": 2**40, "top_pad": 2**26}.items()
)
_live: set[subprocess.Popen] = set()
_guard = threading.Condition()
_stopping = threading.Event()


def accelerate_command(module: str, *arguments: str, processes: int = 1) -> list[str]:
    """`accelerate launch -m module`, with everything said that it would otherwise warn about.

    Several processes are started by torchrun, which Accelerate calls "multi_gpu"; that they use CPUs, if they do, is
    for the module to say. Its own way of starting several on CPUs needs MPI.
    """
    count = str(processes)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", count, "--num_machines", "1"]
    launch += ["--multi_gpu", "--main_process_ip", "127.0.0.1"] if processes > 1 else []
    quiet = ["--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1"]
    return [*launch, *quiet, "--main_process_port", "0", "-m", module, *arguments]


def run_children(commands: Sequence[list[str]], env: Mapping[str, str], log: Log) -> None:
    """Run commands side by side to their ends, as `run_child` does; the first that fails ends the others."""
    with ThreadPoolExecutor(len(commands)) as pool:
        runs = [pool.submit(run_child, "", command, env, log) for command in commands]
        try:
            for run in as_completed(runs):
                run.result()
        except BaseException:
            with _guard:
                for process in _live:
                    if any(process.args is command for command in commands):
                        _signal(process, signal.SIGTERM)
            raise


def run_child(name: str, command: list[str], env: Mapping[str, str], log: Log) -> None:
    """Run a command to its end; lines of JSON that it prints go to `log`, the last others into the error if it fails.
    Of several processes the first that fails names the error: the others then fail because it is gone.

    Raises the error that the child's exit code stands for, with the child's own message after `name`, if it has one, or
    `ChildError` that names the signal it died of.
    """
    other: deque[str] = deque(maxlen=20)
    error: dict[str, Any] | None = None
    with _started(command, env) as process:
        for line in process.stdout or ():
            event = _parse(line)
            if event is None:
                other.append(line.strip())
            elif event["event"] == "error":
                error = error or event
            else:
                log(event)
        code = process.wait()
    if code and _stopping.is_set():
        raise Interrupted(signal.SIGINT)
    if code:
        raise _failure(name, code, error, list(filter(None, other)))


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
        _end(process)
        with _guard:
            _live.discard(process)
            _guard.notify_all()


def _parse(line: str) -> dict[str, Any] | None:
    if line.startswith('{"event"'):
        with contextlib.suppress(ValueError):
            return json.loads(line)
    return None


def _failure(name: str, code: int, error: dict[str, Any] | None, lines: list[str]) -> Exception:
    """What the child died of. Accelerate's launcher leaves with 1 whatever the training left with: the error's own code
    is in its event, a signal is in the launcher's last words, or in torchrun's where there are several processes; the
    others then fail too, for want of the one that was killed.
    """
    if error and error["code"] in BY_EXIT_CODE and error["code"] > 1:
        return BY_EXIT_CODE[error["code"]](f"{name}: {error['message']}" if name else error["message"])
    name = name or "a reader"
    told = re.search(r"died with .*?(\d+)>?\.|Root Cause.*exitcode +: -(\d+)", "\n".join(lines), re.DOTALL)
    signum = -code if code < 0 else int(next(filter(None, told.groups()))) if told else 0
    if signum:
        hint = " (out of memory?)" if signum == signal.SIGKILL else ""
        killed = f"{name}: its process was killed by {signal_name(signum)}{hint}"
        return ChildError(f"{killed}; run again to go on from its last checkpoint")
    if error:
        failure = ChildError(f"{name}: its process failed: {error['message']} (see it whole with --debug)")
        failure.add_note(error.get("trace", ""))
        return failure
    said = lines[-1] if lines else "it said nothing"
    return ChildError(f"{name}: its process ended with exit code {code}: {said}")


def signal_name(signum: int) -> str:
    """SIGKILL for 9; a number that has no name is called "signal 40"."""
    try:
        return signal.Signals(signum).name
    except ValueError:
        return f"signal {signum}"


def _end(process: subprocess.Popen) -> None:
    """Ask the process's group to end, and make it after a while. The output ends when the last of the group has."""
    _signal(process, signal.SIGTERM)
    late = threading.Timer(GRACE_SECONDS, _signal, (process, signal.SIGKILL))
    late.start()
    for _ in process.stdout or ():
        pass
    process.wait()
    late.cancel()
    _signal(process, signal.SIGKILL)
    for stream in (process.stdin, process.stdout):
        if stream:
            stream.close()


def _signal(process: subprocess.Popen, signum: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signum)


def stop_all() -> None:
    """End every child and start no more: what a flow does when it is interrupted. They have time to save."""
    _stopping.set()
    with _guard:
        for process in _live:
            _signal(process, signal.SIGTERM)
        _guard.wait_for(lambda: not _live, GRACE_SECONDS)
        for process in _live:
            _signal(process, signal.SIGKILL)


def stopping() -> bool:
    """Whether `stop_all` was called: nothing new is to begin."""
    return _stopping.is_set()


def allow_again() -> None:
    """Forget an earlier `stop_all`, at the start of a run."""
    _stopping.clear()


def die_with_parent() -> None:
    """In a child: end this process's group when standard input ends, which it does when the parent is gone, or when the
    launcher between them is.
    """
    launcher = os.getppid()

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.getppid() == launcher and not select.select([0], [], [], WATCH_SECONDS)[0]:
                pass
        # Not by a signal where the work can be saved: one may be on its way, and a second means at once, unsaved.
        if not interrupts.ask(signal.SIGTERM):
            os.killpg(os.getpgid(0), signal.SIGTERM)
        time.sleep(GRACE_SECONDS)
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def emit(event: dict[str, Any]) -> None:
    """In a child: one line of JSON to the parent, in one piece, since several processes may speak at once."""
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def child_environment(threads: int, more: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with the thread counts of a training and unbuffered, quiet Python.

    Threads of a training sleep while they wait for each other: spinning ones (the default of OpenMP) keep others, and
    so each other, off the cores of a busy machine, and were seen to train twenty times slower there.
    """
    count = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    home = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
    return (
        os.environ
        | count
        | {"OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1", "PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"}
        | dict(more)
    )


def training_environment(threads: int, more: Mapping[str, str]) -> dict[str, str]:
    """`child_environment` of a training, which keeps the memory that it has had; what the user tells glibc stands."""
    said = os.environ.get("GLIBC_TUNABLES")
    return child_environment(threads, {"GLIBC_TUNABLES": f"{KEEP_MEMORY}:{said}" if said else KEEP_MEMORY, **more})
