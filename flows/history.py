"""Runs in Prefect's history that were killed before they could say so: by kill -9, or by a power cut."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from nano_think.core.errors import LockedError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.filters import FlowFilter
    from prefect.client.schemas.objects import FlowRun

DEFAULT_ROOT = "artifacts"
# Others' flows may share a server with ours: nothing is known of what they work at.
OURS = ("full-pipeline", "full-pipeline-on-dask", "one-stage", "chat-pipeline")


def unfinished(what: str, **more: Any) -> Any:
    """The filter for "Task" or "Flow" runs that are not in a final state."""
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import TERMINAL_STATES, StateType

    run, state, kind = (getattr(filters, f"{what}RunFilter{part}") for part in ("", "State", "StateType"))
    return run(state=state(type=kind(any_=sorted(set(StateType) - TERMINAL_STATES))), **more)


def close_dead_runs(root: Path, own: str | None) -> None:
    """By a run that holds `root`: whatever else is open in Prefect's history for this root, nobody works at.

    What waits for a worker has not begun, and is left to it. Only a history is mended here: that it cannot be is no
    reason to refuse a run.
    """
    with contextlib.suppress(Exception), history_client() as client:
        for run in _open_runs(client):
            waits = run.deployment_id is not None and not _begun(run)
            if root_of(run) == root.resolve() and str(run.id) != own and not waits:
                _close(client, run)


def close_all_dead_runs() -> list[Path]:
    """By whoever starts a server, before it has a worker: close runs in all roots that nobody holds; those roots."""
    from nano_think.stages.session import hold

    closed = []
    with contextlib.suppress(Exception), history_client() as client:
        _close_left_tasks(client)
        for run in _open_runs(client):
            with contextlib.suppress(LockedError):
                if run.state and not run.state.is_scheduled():
                    if root_of(run).is_dir():
                        with hold(root_of(run)):
                            closed.append(root_of(run))
                    _close(client, run)
    return closed


def _close_left_tasks(client: "SyncPrefectClient") -> None:
    """A worker closes a run whose process was killed, but not what that run was at."""
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed, State

    over = filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=[StateType.CRASHED]))
    ended = filters.FlowRunFilter(state=over)
    end: State = Crashed(message="its run has ended")
    for task_run in client.read_task_runs(
        flow_filter=_ours(), flow_run_filter=ended, task_run_filter=unfinished("Task")
    ):
        client.set_task_run_state(task_run.id, end, force=True)


def finish_cancelled(run: str) -> None:
    """A run that was asked to end has ended."""
    from prefect.states import Cancelled, State

    end: State = Cancelled(message="stopped as asked")
    with contextlib.suppress(Exception), history_client() as client:
        client.set_flow_run_state(UUID(run), end, force=True)


def root_of(run: "FlowRun") -> Path:
    """The artifact root that a run works in."""
    return Path(str(run.parameters.get("root", DEFAULT_ROOT))).resolve()


def _ours() -> "FlowFilter":
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName

    return FlowFilter(name=FlowFilterName(any_=list(OURS)))


def _open_runs(client: "SyncPrefectClient") -> "list[FlowRun]":
    return client.read_flow_runs(flow_filter=_ours(), flow_run_filter=unfinished("Flow"))


def _begun(run: "FlowRun") -> bool:
    return run.state is not None and (run.state.is_running() or run.state.is_cancelling())


@contextlib.contextmanager
def history_client() -> "Iterator[SyncPrefectClient]":
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        yield client


def _close(client: "SyncPrefectClient", run: "FlowRun") -> None:
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.states import Cancelled, Crashed, State

    # Whoever asked for the end of a run has had it.
    asked = run.state is not None and run.state.is_cancelling()
    end: State = (Cancelled if asked else Crashed)(message="its process was killed")
    of_run = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
    for task_run in client.read_task_runs(flow_run_filter=of_run, task_run_filter=unfinished("Task")):
        client.set_task_run_state(task_run.id, end, force=True)
    client.set_flow_run_state(run.id, end, force=True)
