"""A run that nobody can stop any more stops itself: when the worker that started it is gone, or when somebody has asked
Prefect to cancel a run that no worker watches.
"""

import contextlib
import json
import os
import signal
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL

from flows.history import finish_cancelled
from flows.services import MARK

WATCH_SECONDS, LEAVE_SECONDS = 1.0, 15.0
_cancelled: list[str] = []


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """For the block, in a flow: SIGTERM to this process, as a supervisor would send it, when the run is to end."""
    run, ended = str(flow_run.get_id()), threading.Event()
    end = _orphaned(os.getppid()) if "PREFECT__FLOW_RUN_ID" in os.environ else _asker(run)
    threading.Thread(target=_watch, args=(end, ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def tell_cancelled() -> None:
    """After a run in this process that was cancelled: Prefect's engine takes its end for a crash."""
    while _cancelled:
        finish_cancelled(_cancelled.pop())


def _watch(end: Callable[[], bool], ended: threading.Event) -> None:
    while not ended.wait(WATCH_SECONDS):
        if end():
            os.kill(os.getpid(), signal.SIGTERM)
            # Where the server is gone too, Prefect's engine would go on asking for it.
            if not ended.wait(LEAVE_SECONDS):
                os.kill(os.getpid(), signal.SIGKILL)
            return


def _orphaned(worker: int) -> Callable[[], bool]:
    """Whether the worker, our parent as the run began, is not that any more. One that `up` has started bears the same
    mark as we do, and may have gone before; any other may be the first process, as in a container.
    """
    mark = os.environ.get(MARK)

    def orphaned() -> bool:
        if os.getppid() != worker:
            return True
        with contextlib.suppress(OSError):
            return mark is not None and mark.encode() not in Path(f"/proc/{worker}/environ").read_bytes()
        return mark is not None and worker == 1

    return orphaned


def _asker(run: str) -> Callable[[], bool]:
    """Whether Prefect says that the run is to be cancelled."""
    url = f"{PREFECT_API_URL.value()}/flow_runs/{run}"

    def asked() -> bool:
        with contextlib.suppress(OSError, ValueError), urllib.request.urlopen(url, timeout=5) as answer:
            if json.load(answer)["state_name"] == "Cancelling":
                _cancelled.append(run)
                return True
        return False

    return asked
