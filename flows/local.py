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
from pathlib import Path
from typing import Any

from nano_think.core.errors import ChildError, storage

START_SECONDS, SETTLE_SECONDS, STOP_SECONDS = 120.0, 30.0, 5.0
# For a run that was stopped or has failed: people wait for it to leave.
HURRIED_SETTLE_SECONDS, HURRIED_STOP_SECONDS = 3.0, 0.5
SERVER = """
import os, threading, uvicorn
threading.Thread(target=lambda: (os.read(0, 1), os._exit(0)), daemon=True).start()
uvicorn.run("prefect.server.api.server:create_app", factory=True, fd={descriptor}, log_level="critical", lifespan="on")
"""


@contextlib.contextmanager
def temporary_api(root: Path) -> Iterator[Callable[[], None]]:
    """A Prefect API for the block, and this process's settings for it; to be entered before Prefect is imported.

    It yields a function that waits until the API answers: there is other work to do meanwhile. At the end it waits
    until every task run has its final state: states travel as events behind the run, and leaving earlier would keep
    some of them RUNNING for ever.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        os.environ |= _settings(root)
        server = _start(listener)
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    answered = threading.Event()

    def wait() -> None:
        _await(server, port)
        _close_dead_runs()
        answered.set()

    try:
        yield wait
        _settle(SETTLE_SECONDS)
    except BaseException:
        if answered.is_set():
            _settle(HURRIED_SETTLE_SECONDS)
        _stop(server, HURRIED_STOP_SECONDS)
        raise
    finally:
        _stop(server, STOP_SECONDS)


def _settings(root: Path) -> dict[str, str]:
    """Prefect's home under `root`, quiet, no telemetry, whatever the user's own settings say."""
    home = (root / ".prefect").resolve()
    with storage(home):
        home.mkdir(parents=True, exist_ok=True)
    for name in ("PREFECT_PROFILE", "PREFECT_API_KEY", "PREFECT_API_AUTH_STRING"):
        os.environ.pop(name, None)
    return {
        "PREFECT_HOME": str(home),
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home / 'prefect.db'}",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_TO_API_ENABLED": "false",
        "PREFECT_PLUGINS_ENABLED": "false",
        "DO_NOT_TRACK": "true",
    }


def _start(listener: socket.socket) -> subprocess.Popen:
    """The server on a socket that is already bound, so that no port can be taken from it; in a session of its own, so
    that Ctrl-C reaches the run alone. It leaves when its standard input ends, which it does with this process.
    """
    descriptor = listener.fileno()
    environment = os.environ | {"PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
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


def _close_dead_runs() -> None:
    """Before a run begins: what is unfinished in the history of its root was killed before it could say so."""
    from prefect.client.orchestration import get_client
    from prefect.states import Crashed, State

    killed: State = Crashed(message="its process was killed")
    with contextlib.suppress(Exception), get_client(sync_client=True) as client:
        for task_run in client.read_task_runs(task_run_filter=_unfinished("Task")):
            client.set_task_run_state(task_run.id, killed, force=True)
        for flow_run in client.read_flow_runs(flow_run_filter=_unfinished("Flow")):
            client.set_flow_run_state(flow_run.id, killed, force=True)


def _settle(seconds: float) -> None:
    """Wait, at most so long, until no task run is unfinished in Prefect's history."""
    from prefect.client.orchestration import get_client

    deadline = time.monotonic() + seconds
    with contextlib.suppress(Exception), get_client(sync_client=True) as client:
        while time.monotonic() < deadline and client.read_task_runs(task_run_filter=_unfinished("Task"), limit=1):
            time.sleep(0.1)


def _unfinished(what: str) -> Any:
    """The filter for "Task" or "Flow" runs that are not in a final state."""
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import StateType

    run, state, kind = (getattr(filters, f"{what}RunFilter{part}") for part in ("", "State", "StateType"))
    return run(state=state(type=kind(any_=[StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING])))


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
