"""Which runs in Prefect's history are closed by whom; the history is a list."""

import contextlib
import uuid
from types import SimpleNamespace

import pytest
from prefect.states import Cancelling, Pending, Running, Scheduled

from flows import history
from flows.chat_pipeline import chat_pipeline
from flows.full_pipeline import full_pipeline
from flows.on_dask import full_pipeline_on_dask
from flows.one_stage import one_stage
from nano_think.stages.session import hold


class Client:
    """What is asked of Prefect's client; `closed` is what it was told."""

    def __init__(self):
        self.runs, self.closed, self.tasks, self.asked = [], {}, [], []

    def add(self, state, root="artifacts", deployed=False, flow="full-pipeline"):
        deployment = uuid.uuid4() if deployed else None
        about = {"parameters": {"root": str(root)}, "deployment_id": deployment, "flow": flow}
        run = SimpleNamespace(id=uuid.uuid4(), state=state, **about)
        self.runs.append(run)
        return run.id

    def read_flow_runs(self, flow_filter, **_):
        return [run for run in self.runs if run.flow in flow_filter.name.any_]

    def read_task_runs(self, flow_run_filter, **_):
        self.asked += flow_run_filter.state.type.any_ if flow_run_filter.state else []
        return [SimpleNamespace(id="a task")]

    def set_task_run_state(self, task, state, force):
        self.tasks.append(state.name)

    def set_flow_run_state(self, run, state, force):
        self.closed[run] = state.name


@pytest.fixture
def client(monkeypatch, tmp_path):
    made = Client()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(history, "history_client", lambda: contextlib.nullcontext(made))
    return made


def test_a_run_closes_the_dead_of_its_root_and_no_other(client, tmp_path):
    """Not itself, not those of another root, not what waits for a worker."""
    dead, own = client.add(Running(), tmp_path / "one"), client.add(Running(), tmp_path / "one")
    client.add(Running(), tmp_path / "two")
    client.add(Pending(), tmp_path / "one", deployed=True)
    client.add(Scheduled(), tmp_path / "one", deployed=True)
    killed_early = client.add(Pending(), "one")
    history.close_dead_runs(tmp_path / "one", str(own))
    assert client.closed == {dead: "Crashed", killed_early: "Crashed"}
    assert client.tasks == ["Crashed", "Crashed"]


def test_flows_of_others_are_left_alone(client, tmp_path):
    """Though a parameter of theirs has the same name."""
    client.add(Running(), tmp_path, flow="somebody's")
    history.close_dead_runs(tmp_path, None)
    history.close_all_dead_runs()
    assert not client.closed


def test_our_flows_are_known_by_their_names():
    ours = full_pipeline, full_pipeline_on_dask, one_stage, chat_pipeline
    assert {flow.name for flow in ours} == set(history.OURS)


def test_who_was_to_be_cancelled_is_cancelled(client, tmp_path):
    asked = client.add(Cancelling(), tmp_path)
    history.close_dead_runs(tmp_path, None)
    assert client.closed == {asked: "Cancelled"}


def test_before_there_is_a_worker_all_but_held_roots_are_closed(client, tmp_path):
    """A run in a terminal goes on while the server is started anew; what is only scheduled waits."""
    dead, gone = (
        client.add(Running(), tmp_path / "one", deployed=True),
        client.add(Pending(), tmp_path / "no such folder"),
    )
    (tmp_path / "one").mkdir()
    client.add(Scheduled(), tmp_path / "one", deployed=True)
    alive = client.add(Running(), tmp_path / "two")
    with hold(tmp_path / "two"):
        roots = history.close_all_dead_runs()
    assert client.closed == {dead: "Crashed", gone: "Crashed"} and alive not in client.closed
    assert roots == [tmp_path / "one"]
    assert not (tmp_path / "no such folder").exists()


def test_what_a_crashed_run_was_at_is_closed(client):
    """A worker whose run was killed closes the run alone."""
    history.close_all_dead_runs()
    assert client.tasks == ["Crashed"] and client.asked == ["CRASHED"]


def test_a_history_that_cannot_be_read_stops_nobody(monkeypatch, tmp_path):
    def broken():
        raise OSError("no API")

    monkeypatch.setattr(history, "history_client", broken)
    history.close_dead_runs(tmp_path, None)
    assert history.close_all_dead_runs() == []
