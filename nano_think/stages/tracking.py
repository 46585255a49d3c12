"""MLflow, the only room that knows it: one run per pipeline, one nested run per expert.

The store is a SQLite file: ./mlflow.db for the default root, so that a bare `mlflow ui` finds it, ROOT/mlflow.db for
others. MLflow is told what happened; it never decides anything.
"""

import contextlib
import logging
import os
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nano_think.core.errors import Interrupted, StorageError
from nano_think.core.files import lock
from nano_think.stages.tracking_records import log_samples, log_text, register

EXPERIMENT = "nano_think"
URI, RUN, PREFIX = (f"NANO_THINK_TRACKING_{name}" for name in ("URI", "RUN", "PREFIX"))
BUFFER_SECONDS, BUFFER_POINTS = 15.0, 500
DEFAULT_ROOT = Path("artifacts")


class NoTracker:
    """Records nothing; the interface of a tracker."""

    def params(self, params: Mapping[str, Any]) -> None:
        """Settings, flat, by dotted name."""

    def metrics(self, metrics: Mapping[str, float], tokens: int = 0) -> None:
        """Figures at a number of tokens."""

    def tags(self, tags: Mapping[str, str]) -> None:
        """Words by which runs are found."""

    def files(self, folder: Path) -> None:
        """Keep the files of a folder with the run."""

    def record(self, text: Mapping[str, Any], samples: Sequence[Mapping[str, Any]], model: Mapping[str, Any]) -> None:
        """The run's text {"sources", "digest"}, what the mixture wrote, and the mixture itself {"place", "digest",
        "verdict"}.
        """

    @contextlib.contextmanager
    def child(self, name: str) -> Iterator["NoTracker"]:
        """A nested run for the block, FAILED if it raises."""
        yield self

    def environment(self, prefix: str = "") -> dict[str, str]:
        """What a child process needs to log to this run (`from_environment`), its figures named `prefix...`."""
        return {}

    def flush(self) -> None:
        """Write what is still held back."""

    def end(self, status: str) -> None:
        """Close the run: FINISHED, FAILED or KILLED."""


Tracker = NoTracker


def store_path(root: Path) -> Path:
    """Where the SQLite file of an artifact root lies."""
    default = root.resolve() == DEFAULT_ROOT.resolve()
    return (Path("mlflow.db") if default else root / "mlflow.db").resolve()


def make_store(root: Path) -> tuple[Any, str, str]:
    """The client, the address and the experiment of a root's store, made if it is missing.

    It is made once, under a lock, in WAL mode: two processes that make it at the same time would destroy it.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow.tracking import MlflowClient

    # After the import, which sets it up to tell of every migration.
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    path = store_path(root)
    uri = f"sqlite:///{path}"
    try:
        with lock(path.with_name(".mlflow.lock"), f"the MLflow store {path}", wait=120):
            fresh = not path.exists()
            client = MlflowClient(tracking_uri=uri)
            found = client.get_experiment_by_name(EXPERIMENT)
            artifacts = (root / "mlflow").resolve()
            known = found.experiment_id if found else client.create_experiment(EXPERIMENT, artifacts.as_uri())
            if fresh:
                _use_wal(path)
    except sqlite3.Error as error:
        raise StorageError(f"{path}: the MLflow store cannot be opened ({error}); move it away and run again") from None
    return client, uri, known


def open_tracker(root: Path, name: str) -> "Tracker":
    """A new MLflow run in the store of `root`; whoever calls holds the root's lock."""
    client, uri, experiment = make_store(root)
    _end_dead_runs(client, experiment, root)
    tags = {"root": str(root.resolve())}
    run = client.create_run(experiment, run_name=name, tags=tags).info.run_id
    return Run(client, uri, run, experiment, root=tags["root"])


def end_dead_runs(root: Path) -> None:
    """Close what is open in the store of `root` though its processes were killed; whoever calls holds the root."""
    client, _, experiment = make_store(root)
    _end_dead_runs(client, experiment, root)


def _end_dead_runs(client: Any, experiment: str, root: Path) -> None:
    """Runs that are open though their root's lock is ours were killed before they could say so."""
    for run in client.search_runs([experiment], "attributes.status = 'RUNNING'"):
        if run.data.tags.get("root") == str(root.resolve()):
            client.set_terminated(run.info.run_id, "KILLED")


def _use_wal(path: Path) -> None:
    """Write-ahead logging sticks in the file, makes commits two to four times cheaper and lets readers read."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=wal")


@contextlib.contextmanager
def _harmless() -> Iterator[None]:
    """No training ends, and no error is hidden by another, because MLflow cannot write: it is said and that is all."""
    try:
        yield
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        print(f"MLflow did not take it ({first})", file=sys.stderr, flush=True)


@dataclass
class Run(NoTracker):
    """One MLflow run. Points are held back and written together: a commit costs far more than a point."""

    client: Any
    uri: str
    run: str
    experiment: str = ""
    prefix: str = ""
    root: str = ""
    _points: list[Any] = field(default_factory=list)
    _written: float = field(default_factory=time.monotonic)

    def __reduce__(self) -> tuple[Any, ...]:
        """On its way to a process of a cluster: it opens the same run of the same store there."""
        return _reopen, (self.uri, self.run, self.experiment, self.prefix, self.root)

    def params(self, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        values = [Param(name, str(value)[:500]) for name, value in params.items()]
        for first in range(0, len(values), 100):
            with _harmless():
                self.client.log_batch(self.run, params=values[first : first + 100])

    def tags(self, tags: Mapping[str, str]) -> None:
        for name, value in tags.items():
            with _harmless():
                self.client.set_tag(self.run, self.prefix + name, value)

    def metrics(self, metrics: Mapping[str, float], tokens: int = 0) -> None:
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        self._points += [Metric(self.prefix + name, float(value), now, tokens) for name, value in metrics.items()]
        if len(self._points) >= BUFFER_POINTS or time.monotonic() - self._written > BUFFER_SECONDS:
            self.flush()

    def flush(self) -> None:
        points, self._points, self._written = self._points, [], time.monotonic()
        for first in range(0, len(points), 1000):
            with _harmless():
                self.client.log_batch(self.run, metrics=points[first : first + 1000])

    def files(self, folder: Path) -> None:
        with _harmless():
            self.client.log_artifacts(self.run, str(folder))

    def record(self, text: Mapping[str, Any], samples: Sequence[Mapping[str, Any]], model: Mapping[str, Any]) -> None:
        with _harmless():
            log_text(self, text["sources"], text["digest"])
        with _harmless():
            log_samples(self, samples)
        with _harmless():
            register(self, model["place"], model["digest"], model["verdict"])

    @contextlib.contextmanager
    def child(self, name: str) -> Iterator["Run"]:
        tags = {"mlflow.parentRunId": self.run, "stage": name, "root": self.root}
        run = Run(self.client, self.uri, self.client.create_run(self.experiment, run_name=name, tags=tags).info.run_id)
        try:
            yield run
        except BaseException as error:
            run.end(status_of(error))
            raise
        run.end("FINISHED")

    def environment(self, prefix: str = "") -> dict[str, str]:
        return {URI: self.uri, RUN: self.run, PREFIX: prefix}

    def end(self, status: str) -> None:
        self.flush()
        with _harmless():
            self.client.set_terminated(self.run, status)


def _reopen(uri: str, run: str, experiment: str, prefix: str, root: str) -> Run:
    from mlflow.tracking import MlflowClient

    return Run(MlflowClient(tracking_uri=uri), uri, run, experiment, prefix, root)


def status_of(error: BaseException) -> str:
    """What MLflow calls a run that `error` has ended: KILLED where somebody stopped it, FAILED where it went wrong."""
    stopped = isinstance(error, Interrupted) or not isinstance(error, Exception)
    return "KILLED" if stopped else "FAILED"


def from_environment() -> Tracker:
    """In a child process: the run that the parent made for it."""
    if RUN not in os.environ:
        return NoTracker()
    from mlflow.tracking import MlflowClient

    uri = os.environ[URI]
    return Run(MlflowClient(tracking_uri=uri), uri, os.environ[RUN], prefix=os.environ[PREFIX])
