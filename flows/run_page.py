"""What Prefect's page of a run shows: progress while it trains, and at the end a card and the tables of results.

It is told to Prefect as artifacts. None of it decides anything, and none of it may end a run.
"""

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

from prefect import artifacts as prefect
from prefect.logging import get_run_logger
from prefect.runtime import deployment

from flows.card import ablation_rows, card, result_rows
from flows.stack import mlflow_page
from nano_think.core.progress import Plain, Progress, Quiet, describe
from nano_think.stages.artifact import Artifact
from nano_think.stages.report import PAGE
from nano_think.stages.session import Session

# An update costs the task some 50 ms.
UPDATE_SECONDS = 2.0


@dataclass
class Page(Quiet):
    """Tells Prefect what it tells `inner`."""

    inner: Progress
    begun: datetime = field(default_factory=lambda: datetime.now(UTC))
    _bars: dict[str, UUID] = field(default_factory=dict)
    _told: dict[str, float] = field(default_factory=dict)

    def start(self, stage: str) -> None:
        self.inner.start(stage)

    def fresh(self, stage: str, key: str) -> None:
        self.inner.fresh(stage, key)

    def done(self, stage: str, seconds: float) -> None:
        self.inner.done(stage, seconds)

    def note(self, text: str) -> None:
        self.inner.note(text)

    def event(self, stage: str, event: dict[str, Any]) -> None:
        self.inner.event(stage, event)
        if event["event"] == "step" and self._due(stage, event):
            with contextlib.suppress(Exception):
                self._show(stage, 100.0 * event["step"] / event["steps"], describe(event))

    def _due(self, stage: str, event: dict[str, Any]) -> bool:
        now = time.monotonic()
        if now - self._told.get(stage, -UPDATE_SECONDS) < UPDATE_SECONDS and event["step"] < event["steps"]:
            return False
        self._told[stage] = now
        return True

    def _show(self, stage: str, percent: float, text: str) -> None:
        """In the thread of the stage's task, so that the bar belongs to the task's run too."""
        if stage in self._bars:
            prefect.update_progress_artifact(self._bars[stage], percent, f"{stage}: {text}")
        else:
            key = f"progress-{_key(stage)}"
            # Prefect's types leave open whether this is awaited; outside of an event loop it is not.
            self._bars[stage] = cast(UUID, prefect.create_progress_artifact(percent, key, f"{stage}: {text}"))

    def __reduce__(self) -> tuple[Any, ...]:
        """On its way to a process of a cluster, where there is no terminal of ours."""
        return Page, (Plain(),)


def with_page(session: Session) -> Session:
    """The session with its progress told to Prefect too: as bars, and on a worker, where no terminal is, as logs."""
    page = Page(Plain(get_run_logger().info) if deployment.get_id() else session.context.progress)
    return replace(session, context=replace(session.context, progress=page))


def publish(name: str, settings: Mapping[str, Any], session: Session, artifacts: Mapping[str, Artifact]) -> None:
    """The card and the tables of a run that has ended well."""
    page = session.context.progress
    assert isinstance(page, Page), "the session's progress is told to Prefect"
    with contextlib.suppress(Exception):
        shown = card(name, settings, artifacts, page.begun, _elsewhere(session, artifacts))
        prefect.create_markdown_artifact(shown, "run-card", f"{name}: settings, stages, results")
        if "evaluate" in artifacts:
            results = artifacts["evaluate"].summary
            prefect.create_table_artifact(result_rows(results), "bits-per-byte", "Bits per byte, lower is better")
            prefect.create_table_artifact(
                ablation_rows(results), "ablation", "Every way to mix, with 95% intervals over documents"
            )


def _elsewhere(session: Session, artifacts: Mapping[str, Artifact]) -> dict[str, str]:
    """Where else one may look: MLflow's page of the run if it is up, and the report."""
    run = getattr(session.context.tracker, "run", None)
    page = mlflow_page(getattr(session.context.tracker, "experiment", ""), run) if run else None
    links = {"MLflow": f"[{run}]({page})" if page else f"run `{run}`"} if run else {}
    report = {"report": f"`{(artifacts['report'].path / PAGE).resolve()}`"} if "report" in artifacts else {}
    return links | report


def _key(stage: str) -> str:
    """Prefect's keys are of lower-case letters, digits and dashes."""
    return stage.lower().replace("_", "-")
