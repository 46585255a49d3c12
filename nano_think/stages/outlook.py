"""What a run would do: each stage as fresh, stale, missing or half-made, why, and what making it would cost."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from nano_think.core.config import flatten, to_dict
from nano_think.core.device import pick_device
from nano_think.core.errors import ArtifactError
from nano_think.stages.artifact import MANIFEST, Artifact, finished, open_artifact
from nano_think.stages.differences import Reason, differences
from nano_think.stages.pipeline import Node
from nano_think.stages.selection import ancestors
from nano_think.stages.stage import WORK, Inputs, Stage

State = Literal["fresh", "stale", "missing", "half-made"]
BUDGET = "train.tokens"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outlook:
    """What would become of one stage."""

    name: str
    """The node's name."""
    state: State
    """"fresh": there and whole. "half-made": begun, and gone on with. "stale": there is another, or it is damaged.
    "missing": there is none."""
    why: tuple[Reason, ...] = ()
    """Why it is not fresh."""
    artifact: Artifact | None = None
    """The one that is there, if it is fresh."""
    chosen: bool = True
    """Whether the run was asked for this stage, and not only for others."""
    seconds: float | None = None
    """What making it took the last time, in proportion to the tokens that are trained on now (seconds)."""
    memory: int | None = None
    """What a training needed the last time (bytes)."""

    @property
    def runs(self) -> bool:
        """Whether the run would make it."""
        return self.chosen and self.state != "fresh"

    def to_json(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in ("name", "state", "chosen", "runs", "seconds", "memory")}
        why = [asdict(reason) | {"text": str(reason)} for reason in self.why]
        return plain | {"why": why, "key": self.artifact.key if self.artifact else None}


def look(
    nodes: Mapping[str, Node], root: Path, chosen: Collection[str] | None = None, force: Collection[str] = ()
) -> dict[str, Outlook]:
    """What a run over the nodes would do under `root`, which is only read. Every artifact that could be used is hashed.

    A stage whose input is to be made first counts as stale: its key is not known before. If the input comes out as it
    was, the run finds the stage fresh after all.
    """
    found: dict[str, Outlook] = {}
    for name, node in nodes.items():
        known = {need: one for need in node.needs if (one := found[need].artifact)}
        outlook = _look(node, known, root, force)
        found[name] = Outlook(**outlook | {"name": name, "chosen": chosen is None or name in chosen})
    return found


def _look(node: Node, known: Inputs, root: Path, force: Collection[str]) -> dict[str, Any]:
    stage, why = node.stage, []
    if len(known) == len(node.needs):
        place = stage.place(root, known)
        if (place / MANIFEST).is_file():
            try:
                artifact = open_artifact(place).verify()
            except ArtifactError as error:
                return {"state": "stale", "why": (Reason("damaged", str(error)),), **_cost(stage, _read(place))}
            found = {"state": "fresh", "artifact": artifact, **_cost(stage, artifact.manifest)}
            return found | _forced(stage, root, place) if stage.name in force else found
        why += list(_begun(place))
    nearest = _nearest(stage, known, root, [need for need in node.needs if need not in known])
    waits = [Reason("waits", need) for need in node.needs if need not in known]
    if nearest is None:
        return {"state": "half-made" if why else "missing", "why": (*why, *waits) or (Reason("new", stage.name),)}
    manifest, reasons = nearest
    return {"state": "half-made" if why else "stale", "why": (*why, *reasons, *waits), **_cost(stage, manifest)}


def _forced(stage: Stage, root: Path, place: Path) -> dict[str, Any]:
    """What becomes of a finished artifact that is made again; what follows has to wait where its bits may change."""
    why = (Reason("forced", stage.name), *_begun(stage.again(root, place)))
    compute = getattr(stage.config, "compute", None)
    same = compute is None or pick_device(compute.device).type == "cpu"
    return {"state": "stale", "why": why, **({} if same else {"artifact": None})}


def _read(place: Path) -> dict[str, Any]:
    """A manifest that may be damaged; empty if it is."""
    try:
        return open_artifact(place).manifest
    except ArtifactError:
        return {}


def _begun(place: Path) -> Iterator[Reason]:
    if place.is_dir():
        whole = place.glob(f"{WORK}/checkpoint-*/state.json")
        steps = sorted(int(one.parent.name.rpartition("-")[2]) for one in whole)
        yield Reason("begun", f"begun; goes on from step {steps[-1]}" if steps else "begun, not finished")


def _nearest(
    stage: Stage, known: Inputs, root: Path, waits: Collection[str]
) -> tuple[dict[str, Any], list[Reason]] | None:
    """The manifest that differs least from what the stage would make, the newest of these, and by what it differs."""
    others = [manifest for place in finished(root, stage.kind) if (manifest := _read(place))]
    compared = [(manifest, differences(stage, known, manifest, waits)) for manifest in others]
    return min(compared, key=lambda pair: len(pair[1]), default=None)


def _cost(stage: Stage, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What it took to make the artifact of a manifest, where its training was longer or shorter in proportion."""
    seconds, memory = manifest.get("seconds"), manifest.get("summary", {}).get("memory_bytes")
    before, now = _budget(manifest.get("config", {})), _budget(to_dict(stage.config))
    return {"seconds": seconds * now / before if seconds and now and before else seconds, "memory": memory}


def _budget(config: Mapping[str, Any]) -> int | None:
    return next((value for name, value in flatten(config) if name.endswith(BUDGET)), None)


def seconds_of(nodes: Mapping[str, Node], found: Mapping[str, Outlook]) -> tuple[float, bool]:
    """The time of a run, stages that do not need each other side by side, and whether that of every stage is known."""
    ends: dict[str, float] = {}
    for name, node in nodes.items():
        begins = max((ends[need] for need in node.needs), default=0.0)
        ends[name] = begins + (found[name].seconds or 0.0) * found[name].runs
    return max(ends.values(), default=0.0), all(one.seconds is not None for one in found.values() if one.runs)


def ready(nodes: Mapping[str, Node], root: Path, chosen: Collection[str]) -> dict[str, Artifact]:
    """What chosen stages need and a run does not make, because it was not chosen; `ArtifactError` where it is not up to
    date, and why.
    """
    needed = ancestors(nodes, chosen)
    if needed == set(chosen):
        return {}
    found = look({name: nodes[name] for name in nodes if name in needed}, root)
    return {name: _usable(one, root) for name, one in found.items() if name not in chosen}


def refusal(nodes: Mapping[str, Node], found: Mapping[str, Outlook], root: Path) -> str | None:
    """Why a run would not begin: what a chosen stage needs is not up to date, and not chosen itself."""
    chosen = {name for name, one in found.items() if one.chosen}
    try:
        for name in nodes:
            if name in ancestors(nodes, chosen) - chosen:
                _usable(found[name], root)
    except ArtifactError as error:
        return str(error)
    return None


def _usable(outlook: Outlook, root: Path) -> Artifact:
    if outlook.artifact is None:
        why = "; ".join(map(str, outlook.why[:3]))
        place = f"{root / outlook.name}: {outlook.state} ({why})"
        raise ArtifactError(
            f"{place}, and it is needed; let the run make it too, for instance with --from {outlook.name}"
        )
    return outlook.artifact
