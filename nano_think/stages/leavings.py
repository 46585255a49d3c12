"""What can be removed from a root: artifacts that only reports of runs that are not to be kept refer to."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from nano_think.core.files import read_json
from nano_think.stages.artifact import CHAT_LATEST, LATEST, MANIFEST, finished, open_artifact
from nano_think.stages.runs import champion, finished_runs
from nano_think.stages.stage import AGAIN, WORK

KEY = re.compile(r"[0-9a-f]{16}")


def kept(root: Path, runs: int) -> set[Path]:
    """The folders of the newest `runs` finished runs, of the champion, of what `latest` and `chat-latest` point at, and
    of all that these were made of.

    Raises `ArtifactError` where a manifest on the way cannot be read: what it needs would not be known.
    """
    best = champion(root)
    places = [place for run in finished_runs(root)[:runs] for place in run.places.values()]
    places += best.places.values() if best else []
    for pointer in (root / LATEST, root / CHAT_LATEST):
        places += read_json(pointer).values() if pointer.is_file() else []
    return _with_inputs(root, (root / place for place in places))


def removable(root: Path, runs: int, half_made: bool = False, unreported: bool = False) -> list[Path]:
    """The folders that can go, reports last: those of older runs that nothing which stays was made of.

    What no report of a finished run goes back to is work that a run is still to be made of; it goes only if
    `unreported` asks for it, and half-made folders only if `half_made` does. What they were made of stays with them.
    What is not a stage's own folder is never among them.
    """
    everything = [path for path in finished(root, "*") if KEY.fullmatch(path.name)]
    reported = _with_inputs(root, (root / place for run in finished_runs(root) for place in run.places.values()))
    roots = [] if unreported else [path for path in everything if path not in reported]
    roots += [] if half_made else [place for path in _half_made(root) for place in _begun_with(root, path)]
    keep = kept(root, runs) | _with_inputs(root, roots)
    gone = [path for path in everything if path not in keep]
    # Should this end half way, what is left of a run still has the report that makes it removable.
    return sorted(
        [*gone, *(_half_made(root) if half_made else ())], key=lambda path: (path.parent.name == "report", path)
    )


def _with_inputs(root: Path, roots: Iterable[Path]) -> set[Path]:
    """Finished folders, and all that they were made of."""
    found: set[Path] = set()
    queue = list(roots)
    while queue:
        path = queue.pop()
        if path not in found and (path / MANIFEST).is_file():
            found.add(path)
            inputs = open_artifact(path).manifest.get("inputs", {})
            queue += [root / one["stage"] / one["key"] for one in inputs.values()]
    return found


def _half_made(root: Path) -> Iterator[Path]:
    for path in (*root.glob("[a-z]*/*"), *root.glob(f"{AGAIN}/*/*")):
        if path.is_dir() and KEY.fullmatch(path.name) and not (path / MANIFEST).exists():
            yield path


def _begun_with(root: Path, half_made: Path) -> list[Path]:
    """The inputs of a training that is not finished."""
    job = half_made / WORK / "job.json"
    inputs = [Path(place) for place in read_json(job)["inputs"].values()] if job.is_file() else []
    return [root / place.parent.name / place.name for place in inputs]


def size(path: Path) -> int:
    """What the files in a folder take (bytes)."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
