"""Running a flow without a server of the user's: Prefect's temporary API on the loopback, gone when the run is over."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from nano_think.core.errors import storage

SETTLE_SECONDS = 30.0


def prepare(root: Path) -> None:
    """Settings for this process, to be made before Prefect is imported: its home under `root`, quiet, no telemetry."""
    home = (root / ".prefect").resolve()
    with storage(home):
        home.mkdir(parents=True, exist_ok=True)
    for name in ("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_API_KEY"):
        os.environ.pop(name, None)
    os.environ |= {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "true",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_TO_API_ENABLED": "false",
        "PREFECT_PLUGINS_ENABLED": "false",
        "DO_NOT_TRACK": "true",
    }


@contextlib.contextmanager
def settled() -> Iterator[None]:
    """After the block, wait until Prefect's history has every task run in a final state, then stop the temporary API.

    States travel as events behind the run; leaving earlier would keep some of them RUNNING for ever.
    """
    try:
        yield
    finally:
        with contextlib.suppress(Exception):
            _wait_for_history()
        _stop_server()


def _wait_for_history() -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterState, TaskRunFilterStateType
    from prefect.client.schemas.objects import StateType

    unfinished = [kind for kind in StateType if kind.name in ("SCHEDULED", "PENDING", "RUNNING")]
    waiting = TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=unfinished)))
    deadline = time.monotonic() + SETTLE_SECONDS
    with get_client(sync_client=True) as client:
        while time.monotonic() < deadline and client.read_task_runs(task_run_filter=waiting, limit=1):
            time.sleep(0.2)


def _stop_server() -> None:
    from prefect.server.api.server import SubprocessASGIServer

    for server in list(SubprocessASGIServer._instances.values()):
        server.stop()
