"""Running a flow without a server of the user's: a temporary Prefect API on the loopback, gone when the run is over.

It is a process of its own that starts while the library is still being imported, keeps its history under the artifact
root, cannot be reached from outside, and dies with the run however the run ends.
"""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from flows.history import history_client, unfinished
from flows.settings import ELSEWHERE, guarded, quiet_settings
from flows.stack import api, running_api
from nano_think.core.errors import ChildError

START_SECONDS, SETTLE_SECONDS, STOP_SECONDS = 120.0, 30.0, 5.0
# For a run that was stopped or has failed: people wait for it to leave.
HURRIED_SETTLE_SECONDS, HURRIED_STOP_SECONDS = 3.0, 0.5
SERVER = """
import os, threading, uvicorn
threading.Thread(target=lambda: (os.read(0, 1), os._exit(0)), daemon=True).start()
uvicorn.run("prefect.server.api.server:create_app", factory=True, fd={descriptor}, log_level="critical", lifespan="on")
"""


@contextlib.contextmanager
def prefect_api(root: Path) -> Iterator[Callable[[], None]]:
    """The Prefect API for a run in this process: of `up` if it runs in this folder, else a temporary one."""
    running = running_api()
    if running is None:
        with temporary_api(root) as wait:
            yield wait
        return
    _settle_in(root)
    os.environ["PREFECT_API_URL"] = running
    try:
        yield lambda: None
    except BaseException:
        from flows.watch import tell_cancelled

        tell_cancelled()
        raise


@contextlib.contextmanager
def temporary_api(root: Path) -> Iterator[Callable[[], None]]:
    """A Prefect API for the block, and this process's settings for it; to be entered before Prefect is imported.

    It yields a function that waits until the API answers: there is other work to do meanwhile. At the end it waits
    until every task run has its final state: states travel as events behind the run, and leaving earlier would keep
    some of them RUNNING for ever.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        _settle_in(root)
        server = _start(listener)
    os.environ["PREFECT_API_URL"] = api(port)
    answered, begun = threading.Event(), datetime.now(UTC)

    def wait() -> None:
        _await(server, port)
        answered.set()

    try:
        yield wait
        _settle(SETTLE_SECONDS, begun)
    except BaseException:
        if answered.is_set():
            _settle(HURRIED_SETTLE_SECONDS, begun)
        _stop(server, HURRIED_STOP_SECONDS)
        raise
    finally:
        _stop(server, STOP_SECONDS)


def _settle_in(root: Path) -> None:
    """This process's settings for a run in a terminal, which tells by itself how far it is."""
    for name in ELSEWHERE:
        os.environ.pop(name, None)
    os.environ |= quiet_settings(root) | {
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_TO_API_ENABLED": "false",
    }


def _start(listener: socket.socket) -> subprocess.Popen:
    """The server on a socket that is already bound, so that no port can be taken from it; in a session of its own, so
    that Ctrl-C reaches the run alone. It leaves when its standard input ends, which it does with this process.
    """
    descriptor = listener.fileno()
    guard = guarded(listener.getsockname()[1])
    environment = os.environ | guard | {"PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", SERVER.format(descriptor=descriptor)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[descriptor],
        start_new_session=True,
        env=environment,
    )


def _await(server: subprocess.Popen, port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=5) as ok,
        ):
            if ok.status == 200:
                return
        time.sleep(0.05)
    raise ChildError("Prefect's temporary API did not start; run again, and if it stays so remove .prefect in the root")


def _settle(seconds: float, begun: datetime) -> None:
    """Wait, at most so long, until no task of a run since `begun` is unfinished in Prefect's history."""
    with contextlib.suppress(Exception), history_client() as client:
        from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterStartTime

        ours = FlowRunFilter(start_time=FlowRunFilterStartTime.model_validate({"after_": begun}))
        deadline, tasks = time.monotonic() + seconds, unfinished("Task")
        while time.monotonic() < deadline and client.read_task_runs(
            flow_run_filter=ours, task_run_filter=tasks, limit=1
        ):
            time.sleep(0.1)


def _stop(server: subprocess.Popen, seconds: float) -> None:
    if server.poll() is not None:
        return
    server.terminate()
    try:
        server.wait(seconds)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
    if server.stdin:
        server.stdin.close()
