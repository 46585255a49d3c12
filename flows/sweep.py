"""`nano-think sweep`: a run for each point of a grid of settings, one after another in one root."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from nano_think.cli.pipeline import PipelineArguments, pipeline_arguments
from nano_think.core.config import to_dict
from nano_think.core.console import clean, console
from nano_think.core.errors import Interrupted, NanoThinkError
from nano_think.stages.grid import Point, grid
from nano_think.stages.runs import FinishedRun
from nano_think.stages.session import check_room, check_sources, hold
from nano_think.stages.tracking import Tracker, below, open_tracker, status_of
from nano_think.stages.tracking_store import make_store

if TYPE_CHECKING:
    from nano_think.stages.artifact import Artifact


@dataclass(frozen=True, kw_only=True)
class SweepArguments(PipelineArguments):
    """A run for each combination of some settings' values, one after another in one root: what they have in common is
    made once. A point that fails leaves the others as they are; the same command goes on where it was stopped.

    Takes the settings of `nano-think run`, which all points share.
    """

    over: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]],
        tyro.conf.arg(metavar="SETTING=VALUE,VALUE...", help_behavior_hint="(required, repeatable)"),
    ] = ()
    """A setting by its dotted name, and its values as in YAML; several times for every combination."""
    root: Path = Path("artifacts")
    """Folder that all artifacts go to."""
    json: bool = False
    """Print one JSON object with all points, the best first, on the last line."""


@dataclass(frozen=True)
class Outcome:
    """What became of a point: its artifacts, or why there are none."""

    point: Point
    artifacts: "dict[str, Artifact] | None" = None
    error: Exception | None = None

    @property
    def results(self) -> dict[str, Any]:
        """What was evaluated; without figures where the point has failed."""
        return self.artifacts["evaluate"].summary if self.artifacts else {"bits_per_byte": None}

    @property
    def code(self) -> int:
        """The exit code that a run of this point alone would have had."""
        return getattr(self.error, "exit_code", 1) if self.error else 0

    def to_json(self) -> dict[str, Any]:
        figures = {name: self.results.get(name) for name in ("bits_per_byte", "uniform", "dense", "experts")}
        places = {name: str(self.artifacts[name].path) if self.artifacts else None for name in ("report", "router")}
        error = {"code": self.code, "message": str(self.error)} if self.error else None
        return {"settings": dict(self.point.settings), **figures, **places, "error": error}


def sweep(arguments: list[str]) -> int:
    """The verb. Its exit code is that of the first point that failed, if one has."""
    wanted = pipeline_arguments(SweepArguments, "sweep", arguments)
    points = grid(wanted.pipeline, wanted.over)
    for point in points:
        check_sources(point.config)
    with hold(wanted.root):
        check_room(wanted.root)
        outcomes = run_points(points, wanted.preset, wanted.root)
    _tell(sorted(outcomes, key=lambda one: one.results["bits_per_byte"] or float("inf")), wanted.json)
    return next((one.code for one in outcomes if one.error), 0)


def run_points(points: Sequence[Point], preset: str, root: Path) -> list[Outcome]:
    """Run every point, told to one Prefect API, as children of one run in MLflow."""
    from flows.local import prefect_api

    with prefect_api(root) as wait_for_api:
        make_store(root)
        wait_for_api()
        tracker, outcomes = open_tracker(root, f"{preset}, sweep"), list[Outcome]()
        tracker.params({f"over.{name}": _values(points, name) for name in points[0].settings})
        try:
            with below(tracker):
                for number, point in enumerate(points, 1):
                    _note(f"point {number} of {len(points)}: {point.name}")
                    outcomes.append(try_point(point, preset, root))
        except BaseException as error:
            tracker.end(status_of(error))
            raise
        _end(tracker, outcomes)
    return outcomes


def try_point(point: Point, preset: str, root: Path) -> Outcome:
    """One ordinary run; what fails is kept and said, and only who is asked to stop stops."""
    from flows.full_pipeline import full_pipeline

    try:
        return Outcome(point, full_pipeline(preset=preset, overrides=to_dict(point.config), root=str(root)))
    except Interrupted:
        raise
    except Exception as error:
        kind = "" if isinstance(error, NanoThinkError) else f"our own mistake: {type(error).__name__}: "
        _note(f"{point.name} failed: {kind}{error}")
        return Outcome(point, error=error)


def _values(points: Sequence[Point], name: str) -> str:
    return ", ".join(dict.fromkeys(str(point.settings[name]) for point in points))


def _end(tracker: Tracker, outcomes: Sequence[Outcome]) -> None:
    """The sweep's own run in MLflow has the best point's figures and name."""
    well = [one for one in outcomes if one.artifacts]
    if well:
        best = min(well, key=lambda one: one.results["bits_per_byte"])
        tracker.metrics({"eval/bits_per_byte": best.results["bits_per_byte"]}, best.results["tokens"])
        tracker.tags({"best": best.point.name})
    tracker.end("FINISHED" if len(well) == len(outcomes) else "FAILED")


def _note(text: str) -> None:
    print(f"sweep: {clean(text)}", file=sys.stderr, flush=True)


def _tell(outcomes: Sequence[Outcome], as_json: bool) -> None:
    """The table, the best point first; and whether its rows can be compared."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in outcomes[0].point.settings:
        table.add_column(clean(name))
    for name in ("mixture", "best expert", "dense"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("report")
    for one in outcomes:
        table.add_row(*(clean(str(value)) for value in one.point.settings.values()), *_row(one))
    out = console()
    out.print(table)
    texts = {FinishedRun(one.artifacts["report"]).evaluation() for one in outcomes if one.artifacts}
    if len(texts) > 1:
        out.print("evaluated on different documents: figures of different texts cannot be compared")
    if as_json:
        print(json.dumps({"points": [one.to_json() for one in outcomes], "comparable": len(texts) < 2}))
    sys.stdout.flush()


def _row(one: Outcome) -> list[str]:
    if one.artifacts is None:
        return ["failed", "", "", clean(str(one.error))]
    results = one.results
    best = min(results["experts"], key=results["experts"].get)
    dense = "" if results["dense"] is None else f"{results['dense']:.3f}"
    figures = [f"{results['bits_per_byte']:.3f}", f"{results['experts'][best]:.3f} ({clean(best)})", dense]
    return [*figures, str(one.artifacts["report"].path / "report.html")]
