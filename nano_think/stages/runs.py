"""Finished runs under a root: a report's artifact names all that a run has made, so it stands for the run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_think.core.errors import ArtifactError, UsageError, nearest
from nano_think.core.files import digest, read_json
from nano_think.stages.artifact import LATEST, MANIFEST, Artifact, finished, open_artifact

CHAMPION = "champion.json"
DOCUMENTS = "documents.parquet"


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A run whose report is there."""

    report: Artifact

    @property
    def name(self) -> str:
        """What the run was called: the preset, and what was changed in it."""
        return str(self.report.manifest["config"]["name"])

    @property
    def config(self) -> dict[str, Any]:
        return self.report.manifest["config"]["config"]

    @property
    def places(self) -> dict[str, str]:
        """Stage -> "stage/key" of everything that the run is made of."""
        made = {name: f"{one['stage']}/{one['key']}" for name, one in self.report.manifest["inputs"].items()}
        return made | {"report": f"{self.report.stage}/{self.report.key}"}

    def artifact(self, stage: str) -> Artifact:
        """What the run has made in a stage, verified; `ArtifactError` where it is gone, damaged or another."""
        root, wanted = self.report.path.parent.parent, self.report.manifest["inputs"][stage]
        found = open_artifact(root / wanted["stage"] / wanted["key"])
        if found.digest != wanted["digest"]:
            raise ArtifactError(
                f"{found.path}: digest {found.digest[:12]}, and the report is of {wanted['digest'][:12]}"
            )
        return found.verify()

    def evaluation(self) -> str:
        """A digest of the documents that were evaluated: figures of two runs with the same one can be compared."""
        import pandas as pd

        frame = pd.read_parquet(self.artifact("evaluate").path / DOCUMENTS, columns=["domain", "bytes"])
        text = self.report.manifest["inputs"]["ingest"]["digest"]
        return digest([text, frame["domain"].tolist(), frame["bytes"].tolist()])


def finished_runs(root: Path) -> list[FinishedRun]:
    """The newest first."""
    return [FinishedRun(open_artifact(place)) for place in finished(root, "report")]


def champion(root: Path) -> FinishedRun | None:
    """The best run, as far as runs can be compared; None where there is none, or where its report was removed."""
    if not (root / CHAMPION).is_file():
        return None
    told = read_json(root / CHAMPION)
    if not isinstance(told, dict) or "report" not in told:
        raise ArtifactError(f"{root / CHAMPION}: names no run; remove it, and the next run that ends is the champion")
    place = root / told["report"]
    return FinishedRun(open_artifact(place)) if (place / MANIFEST).exists() else None


def find_run(what: str, root: Path) -> FinishedRun:
    """The run called "latest", "champion", by the folder of its report, or by the beginning of the report's key."""
    if what == "latest" and (root / LATEST).is_file():
        return FinishedRun(open_artifact(root / read_json(root / LATEST)["report"]))
    best = champion(root) if what == "champion" else None
    if best:
        return best
    place = Path(what).resolve()
    found = [
        one for one in finished_runs(root) if one.report.key.startswith(what) or one.report.path.resolve() == place
    ]
    if len(found) != 1:
        there = [name for name, file in (("latest", LATEST), ("champion", CHAMPION)) if (root / file).is_file()]
        known = {*there, *(one.report.key for one in finished_runs(root))} - {what}
        told = f"{len(found)} begin so" if found else nearest(what, known)
        raise UsageError(f"no run '{what}' under '{root}'. {told}".replace(".  ", ". "))
    return found[0]
