"""What can be removed from a root: artifacts that no run that is to be kept was made of."""

import re
from collections.abc import Iterator
from pathlib import Path

from nano_think.core.files import read_json
from nano_think.stages.artifact import LATEST, MANIFEST, finished, open_artifact
from nano_think.stages.runs import champion, finished_runs

KEY = re.compile(r"[0-9a-f]{16}")


def kept(root: Path, runs: int) -> set[Path]:
    """The folders of the newest `runs` finished runs, of the champion, of `latest`, and of all that these were made of.

    Raises `ArtifactError` where a manifest on the way cannot be read: what it needs would not be known.
    """
    best = champion(root)
    places = [place for run in finished_runs(root)[:runs] for place in run.places.values()]
    places += best.places.values() if best else []
    places += read_json(root / LATEST).values() if (root / LATEST).is_file() else []
    found: set[Path] = set()
    queue = [root / place for place in places]
    while queue:
        path = queue.pop()
        if path not in found and (path / MANIFEST).is_file():
            found.add(path)
            inputs = open_artifact(path).manifest.get("inputs", {})
            queue += [root / one["stage"] / one["key"] for one in inputs.values()]
    return found


def removable(root: Path, runs: int, half_made: bool) -> list[Path]:
    """The folders that can go: finished artifacts that are not `kept`, and, if that is asked for, half-made ones. What
    is not a stage's own folder is never among them.
    """
    keep = kept(root, runs)
    gone = [path for path in finished(root, "*") if path not in keep and KEY.fullmatch(path.name)]
    return sorted([*gone, *(_half_made(root) if half_made else ())])


def _half_made(root: Path) -> Iterator[Path]:
    for path in root.glob("[a-z]*/*"):
        if path.is_dir() and KEY.fullmatch(path.name) and not (path / MANIFEST).exists():
            yield path


def size(path: Path) -> int:
    """What the files in a folder take (bytes)."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
