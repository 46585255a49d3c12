"""What surrounds a run: the lock on its root, its MLflow run, its progress, and the end of its processes."""

import contextlib
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from nano_think.core import process
from nano_think.core.config import flatten, to_dict
from nano_think.core.device import gpu_memory, pick_device
from nano_think.core.errors import StorageError, storage
from nano_think.core.files import lock, read_json
from nano_think.core.progress import choose_progress
from nano_think.core.provenance import provenance
from nano_think.core.slots import USUAL, Slots, shared_folder
from nano_think.stages.artifact import Artifact, write_latest
from nano_think.stages.chat_pipeline import ChatConfig
from nano_think.stages.contest import champion_digest, contend
from nano_think.stages.evaluate import SAMPLES
from nano_think.stages.ingest import Ingest
from nano_think.stages.pipeline import PipelineConfig
from nano_think.stages.runs import FinishedRun
from nano_think.stages.stage import Context
from nano_think.stages.tracking import Tracker, open_tracker, status_of

# What the empty stores of Prefect and MLflow take (bytes); they say nothing useful when they cannot have it.
ROOM = 8 * 2**20
# Roots that this process holds for a session that is yet to be opened.
_handed: set[Path] = set()


@dataclass(frozen=True)
class Session:
    """The root that a run writes to and the context of its stages."""

    root: Path
    context: Context

    def finish(self, artifacts: Mapping[str, Artifact]) -> None:
        """Make the run's model the latest, and tell MLflow how good it is."""
        write_latest(self.root, artifacts)
        results = artifacts["evaluate"].summary
        tracker = self.context.tracker
        tracker.metrics(dict(_figures(results)), results["tokens"])
        tracker.tags({f"key.{name}": artifact.key for name, artifact in artifacts.items()})
        verdict = contend(FinishedRun(artifacts["report"]), self.root)
        if verdict.get("damaged"):
            self.context.progress.note(f"champion: stays; {verdict['why']}")
        figures = {name: verdict[name] for name in ("change", "low", "high") if verdict.get(name) is not None}
        tracker.metrics({f"champion/{name}": value for name, value in figures.items()}, results["tokens"])
        tracker.tags({"champion": f"{'moved' if verdict['moved'] else 'stays'}: {verdict['why']}"} | provenance())
        tracker.tags({"data": artifacts["ingest"].digest})
        tracker.record(
            {"sources": artifacts["ingest"].summary["sources"], "digest": artifacts["ingest"].digest},
            read_json(artifacts["evaluate"].path / SAMPLES),
            {
                "place": artifacts["router"].path,
                "digest": artifacts["router"].digest,
                "verdict": verdict,
                "champion": champion_digest(self.root),
            },
        )
        for name in ("evaluate", "report"):
            tracker.files(artifacts[name].path)


def _figures(results: Mapping) -> Iterator[tuple[str, float]]:
    yield "eval/bits_per_byte", results["bits_per_byte"]
    yield "eval/uniform", results["uniform"]
    if results.get("dense") is not None:
        yield "eval/dense", results["dense"]
    for name, value in results["experts"].items():
        yield f"eval/experts/{name}", value
    for domain, part in results["domains"].items():
        yield f"eval/domains/{_metric(domain)}", part["bits_per_byte"]
    for kind, part in (results["memory"] or {}).items():
        yield f"eval/memory/{kind}", part["mixture"]
    for row in (results.get("ablation") or {}).get("rows", ()):
        yield f"ablation/plain/{row['scorer']}", row["bits_per_byte"]
        if row["calibrated"] is not None:
            yield f"ablation/calibrated/{row['scorer']}", row["calibrated"]
        for other, compared in row["against"].items():
            if compared:
                yield f"ablation/against_{other}/{row['scorer']}", compared["change"]


def _metric(domain: str) -> str:
    """A folder's name as part of a metric's, which some stores of MLflow use as a path: one bad name and none is kept.

    Other names than MLflow's own letters may meet in one metric; the report tells them apart.
    """
    return re.sub(r"^\.+$|[^\w\-.: ]", "_", domain.strip())[:200] or "_"


def check_sources(config: PipelineConfig) -> None:
    """Refuse at once what the run would refuse later, before there is a root: sources that are not there."""
    Ingest(config.ingest).settled()


def check_room(root: Path) -> None:
    """Refuse a root without room."""
    free = shutil.disk_usage(root).free
    if free < ROOM:
        raise StorageError(
            f"{root}: no space left on the device ({free:,} bytes free, wanted {ROOM:,} to begin); "
            "free some or choose another --root"
        )


@contextlib.contextmanager
def hold(root: Path) -> Iterator[None]:
    """Have the root to ourselves for the block, and make it if it is not there. Sessions that this process opens on the
    root inside the block, one at a time, take it over: between a check and the run nobody else can come in.
    """
    with storage(root):
        root.mkdir(parents=True, exist_ok=True)
    with lock(root / ".lock", f"artifact root '{root}'"):
        _handed.add(root.resolve())
        try:
            yield
        finally:
            _handed.discard(root.resolve())


@contextlib.contextmanager
def _take(root: Path) -> Iterator[None]:
    with contextlib.nullcontext() if root.resolve() in _handed else hold(root):
        _handed.discard(root.resolve())
        try:
            yield
        finally:
            _handed.add(root.resolve())


@contextlib.contextmanager
def open_session(
    root: Path, name: str, config: PipelineConfig | ChatConfig, force: Collection[str] = ()
) -> Iterator[Session]:
    """Hold the root for the block; whatever ends it, no process stays behind and MLflow hears the truth.

    force: stages that are made again though they are up to date.
    """
    with _take(root):
        process.allow_again()
        progress = choose_progress()
        try:
            tracker = open_tracker(root, name)
            with _ended(tracker):
                tracker.params(dict(flatten(to_dict(config))))
                slots = _slots(root, config)
                yield Session(root, Context(progress, tracker, force=frozenset(force), slots=slots))
        finally:
            progress.stop()


def _slots(root: Path, config: PipelineConfig | ChatConfig) -> Slots:
    """The GPUs of this machine, shared with all its runs; a CPU is shared only if that is asked for."""
    gpus = gpu_memory() if pick_device(config.compute.device).type == "cuda" else {}
    # The trainings of a chat run come one after the other.
    at_once = config.at_once if isinstance(config, PipelineConfig) else 0
    each = at_once or USUAL
    if gpus:
        return Slots(shared_folder(), gpus, each, together=config.compute.processes > 1)
    return Slots(root / ".slots", {"cpu": None}, each) if at_once else Slots()


@contextlib.contextmanager
def _ended(tracker: Tracker) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        process.stop_all()
        tracker.end(status_of(error))
        raise
    tracker.end("FINISHED")
