"""MLflow: told what happened, never in the way."""

import contextlib
import sqlite3

import pytest

from nano_think.core.errors import Interrupted, StorageError
from nano_think.stages import tracking, tracking_store
from nano_think.stages.session import _figures
from nano_think.stages.tracking import below, follow, open_tracker
from nano_think.stages.tracking_store import store_path


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One store for all: making its tables takes seconds."""
    root = tmp_path_factory.mktemp("root")
    open_tracker(root, "first").end("FINISHED")
    return root


def runs_of(store):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{store / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("nano_think")
    return {run.info.run_id: run for run in client.search_runs([experiment.experiment_id])}


def test_store_is_in_the_root_but_for_the_default_one(tmp_path, monkeypatch):
    """A bare `mlflow ui` in the checkout finds ./mlflow.db."""
    monkeypatch.chdir(tmp_path)
    assert store_path(tmp_path / "artifacts") == tmp_path / "mlflow.db"
    assert store_path(tmp_path / "else") == tmp_path / "else" / "mlflow.db"


def test_store_is_in_wal_mode(store):
    """Writers do not stop readers."""
    connection = sqlite3.connect(store / "mlflow.db")
    assert connection.execute("pragma journal_mode").fetchone() == ("wal",)
    connection.close()


def test_what_a_training_says_is_in_its_run(store):
    """Under the name of its stage where the run is the pipeline's; all of it is written when the training has ended."""
    parent = open_tracker(store, "parent")
    with parent.part("embedding/") as part:
        follow(part, {"event": "process", "process_id": 1})
        follow(part, {"event": "step", "step": 2, "steps": 9, "tokens": 64, "loss": 2.5})
        follow(part, {"event": "validation", "step": 2, "loss": 3.5, "tokens": 64})
        follow(part, {"event": "warning", "message": "nothing of MLflow's"})
    run = runs_of(store)[parent.run]
    parent.end("FINISHED")
    assert run.data.metrics == {"embedding/train/loss": 2.5, "embedding/validation/loss": 3.5}
    assert run.data.tags["embedding/process_id"] == "1"


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (lambda: Interrupted(2), "KILLED"), (None, "FINISHED")],
    ids=["error", "Ctrl-C", "stopped", "well"],
)
def test_child_run_ends_as_its_block_did(store, error, status):
    """MLflow hears the truth."""
    parent = open_tracker(store, "parent")
    with contextlib.suppress(BaseException), parent.child("toy") as child:
        if error:
            raise error()
    parent.end("FINISHED")
    run = runs_of(store)[child.run]
    assert run.info.status == status
    assert run.data.tags["mlflow.parentRunId"] == parent.run


def test_runs_of_a_killed_pipeline_are_ended_by_the_next(store):
    """kill -9 leaves runs open; the next run on the root, which holds its lock, closes them."""
    killed = open_tracker(store, "killed")
    child = killed.client.create_run(killed.experiment, tags={"root": killed.root})
    following = open_tracker(store, "next")
    states = {run.info.status for key, run in runs_of(store).items() if key != following.run}
    following.end("FINISHED")
    assert "RUNNING" not in states
    assert runs_of(store)[child.info.run_id].info.status == "KILLED"


def test_mlflow_that_cannot_write_stops_nothing(store, monkeypatch, capsys):
    """A training goes on without its figures in MLflow, and says so."""
    tracker = open_tracker(store, "toy")

    def refuse(*_, **__):
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(tracker.client, "log_batch", refuse)
    tracker.metrics({"loss": 1.0}, 1)
    tracker.params({"a": 1})
    tracker.end("FINISHED")
    assert "MLflow did not take it (database is locked)" in capsys.readouterr().err


def test_store_that_is_no_database_is_told_in_one_line(tmp_path):
    """With its name, and what to do; nothing of it is changed."""
    file = tmp_path / "mlflow.db"
    file.write_text("no database at all, and long enough to be looked at" * 100)
    before = file.read_bytes()
    with pytest.raises(StorageError, match=r"mlflow\.db: MLflow's store cannot be used \(file is not a database\)"):
        open_tracker(tmp_path, "toy")
    assert file.read_bytes() == before


def test_store_of_another_version_is_told_in_one_line(tmp_path):
    """MLflow's own words have several lines and a traceback."""
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as other:
        other.execute("create table alembic_version (version_num text)")
        other.execute("create table experiments (experiment_id integer)")
        other.execute("insert into alembic_version values ('of another time')")
        other.commit()
    with pytest.raises(StorageError, match=r"mlflow\.db: MLflow's store cannot be used") as caught:
        open_tracker(tmp_path, "toy")
    assert "\n" not in str(caught.value)


def test_locked_store_is_told_as_such(store, monkeypatch):
    """Another program that writes without end."""
    monkeypatch.setattr(tracking_store, "BUSY_SECONDS", 0.01)
    with contextlib.closing(sqlite3.connect(store / "mlflow.db")) as other:
        other.execute("begin immediate")
        with pytest.raises(StorageError, match="another program keeps MLflow's store locked"):
            open_tracker(store, "toy")
        other.execute("rollback")


def test_training_goes_on_without_a_run_of_its_own(store, monkeypatch, capsys):
    """Where MLflow refuses to make one."""
    parent = open_tracker(store, "parent")

    def refuse(*_, **__):
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(parent.client, "create_run", refuse)
        with parent.child("toy") as child:
            follow(child, {"event": "step", "step": 1, "steps": 9, "tokens": 64, "loss": 2.5})
    parent.end("FINISHED")
    assert "MLflow did not take it (disk I/O error)" in capsys.readouterr().err


def test_runs_below_another_are_its_children(store):
    """Of a sweep, which is not taken for dead."""
    above = open_tracker(store, "sweep")
    with below(above):
        one = open_tracker(store, "point")
        one.end("FINISHED")
    assert runs_of(store)[above.run].info.status == "RUNNING"
    above.end("FINISHED")
    assert runs_of(store)[one.run].data.tags["mlflow.parentRunId"] == above.run
    after = open_tracker(store, "alone")
    after.end("FINISHED")
    assert "mlflow.parentRunId" not in runs_of(store)[after.run].data.tags


def test_long_and_many_settings_are_taken(store):
    """MLflow refuses more than a hundred at once and long ones."""
    tracker = open_tracker(store, "toy")
    tracker.params({f"p{n}": "x" * 1000 for n in range(150)})
    tracker.end("FINISHED")
    assert len(runs_of(store)[tracker.run].data.params) == 150


def test_points_are_written_together(store, monkeypatch):
    """A commit costs far more than a point: many points, few commits."""
    tracker, calls = open_tracker(store, "toy"), []
    monkeypatch.setattr(tracking, "BUFFER_POINTS", 50)
    monkeypatch.setattr(tracker.client, "log_batch", lambda run, metrics: calls.append(len(metrics)))
    for step in range(120):
        tracker.metrics({"loss": 1.0}, step)
    tracker.flush()
    assert calls == [50, 50, 20]
    monkeypatch.undo()
    tracker.end("FINISHED")


@pytest.mark.parametrize("domain", ["..", ".", "a/../b", "/etc", "a$b", "x" * 300, "", " code ", "神学", "a\0b", "CON"])
def test_a_domain_of_any_name_is_a_metric(domain):
    """MLflow would refuse a name that may be a path, and with it all figures of the run."""
    from mlflow.utils.validation import _validate_metric_name

    results = {"bits_per_byte": 1.0, "uniform": 1.0, "experts": {}, "memory": None}
    (name,) = [
        name
        for name, _ in _figures(results | {"domains": {domain: {"bits_per_byte": 1.0}}})
        if name.startswith("eval/domains/")
    ]
    _validate_metric_name(name)
    assert len(name) < 250
