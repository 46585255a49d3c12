"""Which of two runs is better: the same documents, memory off, the difference with its interval over documents."""

import contextlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nano_think.core.errors import NanoThinkError
from nano_think.core.files import write_json
from nano_think.evaluation.bootstrap import interval, resampled_totals
from nano_think.evaluation.scorers import CALIBRATED
from nano_think.stages.runs import CHAMPION, DOCUMENTS, FinishedRun, champion

COLUMN = "mixture"


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """How a run's mixture compares with another's: bits of the one over those of the other, less 1."""

    comparable: bool
    """Whether both were evaluated on the same documents."""
    change: float | None = None
    """Below 0 the first needs fewer bits (ratio)."""
    low: float | None = None
    """Lower end of the 95% interval over documents (ratio)."""
    high: float | None = None
    """Upper end."""
    calibrated: bool = True
    """Whether these are calibrated bits; without, where one of the mixtures has no calibration."""

    @property
    def better(self) -> bool:
        """Whether the first is better, beyond what the choice of documents may bring about."""
        return self.high is not None and self.high < 0


def compare(one: FinishedRun, other: FinishedRun) -> Verdict:
    """Paired over documents; only where both runs evaluated the same ones."""
    import numpy as np
    import pandas as pd

    if one.evaluation() != other.evaluation():
        return Verdict(comparable=False)
    frames = [pd.read_parquet(run.artifact("evaluate").path / DOCUMENTS) for run in (one, other)]
    calibrated = all(CALIBRATED + COLUMN in frame for frame in frames)
    name = CALIBRATED + COLUMN if calibrated else COLUMN
    sums_N2 = np.stack([frame[name].to_numpy(float) for frame in frames], axis=1)
    total_2, drawn_S2 = sums_N2.sum(axis=0), resampled_totals(sums_N2)
    some_S2 = drawn_S2[drawn_S2[:, 1] > 0]
    low, high = interval(some_S2[:, 0] / some_S2[:, 1] - 1)
    change = float(total_2[0] / total_2[1] - 1)
    return Verdict(comparable=True, change=change, low=low, high=high, calibrated=calibrated)


def contend(run: FinishedRun, root: Path) -> dict[str, Any]:
    """Make `run` the champion of its root if there is none, or if it is better than the one there is; what was found.

    A run that was evaluated on other documents never replaces the champion, and neither does any where the champion's
    files are damaged: the run itself has ended well.
    """
    try:
        return _contend(run, champion(root), root)
    except (NanoThinkError, OSError, LookupError, TypeError, ValueError) as error:
        return {"moved": False, "why": f"cannot be compared: {error}", "damaged": True}


def champion_digest(root: Path) -> str | None:
    """The digest of the champion's mixture; None where there is no champion, or none that can be read."""
    with contextlib.suppress(NanoThinkError, OSError, LookupError, TypeError, ValueError):
        best = champion(root)
        return str(best.report.manifest["inputs"]["router"]["digest"]) if best else None
    return None


def _contend(run: FinishedRun, best: FinishedRun | None, root: Path) -> dict[str, Any]:
    if best and best.report.manifest["inputs"]["router"]["digest"] == run.report.manifest["inputs"]["router"]["digest"]:
        return {"moved": False, "why": "it is the champion"}
    verdict = compare(run, best) if best else None
    if verdict and not verdict.better:
        why = "not better beyond chance" if verdict.comparable else "evaluated on other documents"
        return asdict(verdict) | {"moved": False, "why": why, "against": best.report.key if best else None}
    found = asdict(verdict) | {"against": best.report.key} if verdict and best else {}
    found |= {"moved": True, "why": "better" if verdict else "the first", "evaluation": run.evaluation()}
    write_json(root / CHAMPION, {"report": run.places["report"], "model": run.places["router"], **found})
    return found
