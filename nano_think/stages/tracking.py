"""MLflow, the only room that knows it: one run per pipeline, one nested run per expert.

MLflow is told what happened; it never decides anything.
"""

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nano_think.core.errors import Interrupted
from nano_think.stages.tracking_records import crown, log_samples, log_text, register
from nano_think.stages.tracking_store import make_store, opening

BUFFER_SECONDS, BUFFER_POINTS = 15.0, 500
PARENT = "mlflow.parentRunId"
# The run that those that are opened meanwhile belong to (`below`).
_above: ContextVar[str] = ContextVar("above", default="")


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
        "verdict", "champion": the digest of the root's champion, if it has one}.
        """

    @contextlib.contextmanager
    def child(self, name: str) -> Iterator["NoTracker"]:
        """A nested run for the block, FAILED if it raises."""
        yield self

    @contextlib.contextmanager
    def part(self, prefix: str) -> Iterator["NoTracker"]:
        """The same run for the block, its figures and tags named `prefix...`."""
        yield self

    def flush(self) -> None:
        """Write what is still held back."""

    def end(self, status: str) -> None:
        """Close the run: FINISHED, FAILED or KILLED."""


Tracker = NoTracker


def open_tracker(root: Path, name: str) -> "Tracker":
    """A new MLflow run in the store of `root`; whoever calls holds the root's lock."""
    client, uri, experiment = make_store(root)
    tags = {"root": str(root.resolve())} | ({PARENT: _above.get()} if _above.get() else {})
    with opening(root):
        _end_dead_runs(client, experiment, root)
        run = client.create_run(experiment, run_name=name, tags=tags).info.run_id
    return Run(client, uri, run, experiment, root=tags["root"])


@contextlib.contextmanager
def below(tracker: "Tracker") -> Iterator[None]:
    """Runs that are opened in the block are children of that one, which goes on."""
    token = _above.set(getattr(tracker, "run", ""))
    try:
        yield
    finally:
        _above.reset(token)


def end_dead_runs(root: Path) -> None:
    """Close what is open in the store of `root` though its processes were killed; whoever calls holds the root."""
    client, _, experiment = make_store(root)
    with opening(root):
        _end_dead_runs(client, experiment, root)


def _end_dead_runs(client: Any, experiment: str, root: Path) -> None:
    """Runs that are open though their root's lock is ours were killed before they could say so."""
    for run in client.search_runs([experiment], "attributes.status = 'RUNNING'"):
        if run.data.tags.get("root") == str(root.resolve()) and run.info.run_id != _above.get():
            client.set_terminated(run.info.run_id, "KILLED")


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
        with _harmless():
            crown(self, model["champion"])

    @contextlib.contextmanager
    def child(self, name: str) -> Iterator[NoTracker]:
        tags, run = {PARENT: self.run, "stage": name, "root": self.root}, NoTracker()
        with _harmless():
            made = self.client.create_run(self.experiment, run_name=name, tags=tags)
            run = Run(self.client, self.uri, made.info.run_id)
        try:
            yield run
        except BaseException as error:
            run.end(status_of(error))
            raise
        run.end("FINISHED")

    @contextlib.contextmanager
    def part(self, prefix: str) -> Iterator[NoTracker]:
        run = Run(self.client, self.uri, self.run, self.experiment, prefix, self.root)
        try:
            yield run
        finally:
            run.flush()

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


def follow(tracker: Tracker, event: Mapping[str, Any]) -> None:
    """Tell the run of a training what an event of its log says."""
    if event["event"] == "process":
        tracker.tags({"process_id": str(event["process_id"])})
    elif event["event"] == "step":
        names = [name for name in event if name not in ("event", "step", "steps", "tokens")]
        tracker.metrics({f"train/{name}": event[name] for name in names}, event["tokens"])
    elif event["event"] == "validation":
        tracker.metrics({"validation/loss": event["loss"]}, event["tokens"])
