"""What an artifact was made of, back to the text: read off the manifests, every file on the way verified."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_think.core.errors import ArtifactError, UsageError, nearest
from nano_think.core.files import read_json
from nano_think.stages.artifact import LATEST, MANIFEST, Artifact, finished, open_artifact


@dataclass(frozen=True, slots=True)
class Link:
    """An artifact and the names under which it was made of others."""

    artifact: Artifact
    inputs: dict[str, str]
    """Name of an input -> its "stage/key"."""


def find_artifact(what: str, root: Path) -> Artifact:
    """The artifact called `what`: a folder, "stage/key" or the beginning of it under `root`, or the name of a stage,
    which is that of the newest finished pipeline.
    """
    if (Path(what) / MANIFEST).is_file():
        return open_artifact(Path(what).resolve())
    places = read_json(root / LATEST) if (root / LATEST).is_file() else {}
    if what in places:
        return open_artifact(root / places[what])
    stage, _, key = what.rpartition("/")
    found = [
        place for place in finished(root, "*") if place.parent.name == (stage or place.parent.name)
        and place.name.startswith(key)
    ]  # fmt: skip
    if len(found) == 1:
        return open_artifact(found[0])
    known = [f"{place.parent.name}/{place.name}" for place in finished(root, "*")]
    if found:
        raise UsageError(f"artifact '{what}': {len(found)} begin so under '{root}'; give more of the key")
    raise UsageError(f"no artifact '{what}' under '{root}'.{nearest(what, places or known)}")


def trace(artifact: Artifact) -> dict[str, Link]:
    """ "stage/key" -> link, of the artifact and of all that it was made of, itself first, each after what needs it.

    Raises `ArtifactError` that names the file where one of them is gone, damaged, or another than was used.
    """
    root = artifact.path.resolve().parent.parent
    links: dict[str, Link] = {}

    def visit(one: Artifact) -> None:
        inputs = one.verify().manifest.get("inputs", {})
        for reference in inputs.values():
            made = _open(root, one, reference)
            if _place(made) not in links:
                visit(made)
        links[_place(one)] = Link(one, {name: f"{made['stage']}/{made['key']}" for name, made in inputs.items()})

    visit(artifact)
    return dict(reversed(links.items()))


def _place(artifact: Artifact) -> str:
    return f"{artifact.stage}/{artifact.key}"


def _open(root: Path, of: Artifact, reference: dict[str, str]) -> Artifact:
    place = (root / reference["stage"] / reference["key"]).resolve()
    if place.parent.parent != root:
        raise ArtifactError(f"{of.path / MANIFEST}: its inputs lie outside of '{root}'; run the pipeline again")
    found = open_artifact(place)
    if found.digest != reference["digest"]:
        raise ArtifactError(
            f"{place}: digest {found.digest[:12]}, and {of.stage}/{of.key} was made of {reference['digest'][:12]}"
        )
    return found


def sources(links: dict[str, Link]) -> Iterator[dict[str, Any]]:
    """Each text that the artifact goes back to: name, domain, licence, origin."""
    for link in links.values():
        if not link.inputs:
            yield from link.artifact.summary.get("sources", [])
