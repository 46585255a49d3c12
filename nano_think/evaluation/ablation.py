"""The ablation table: what each part is worth, every model calibrated alike, differences with their intervals."""

from typing import TYPE_CHECKING, Any

import numpy as np

from nano_think.evaluation.bootstrap import interval, resampled_totals
from nano_think.evaluation.scorers import CALIBRATED
from nano_think.evaluation.scratch import LATE

if TYPE_CHECKING:
    import pandas as pd

NOT_ROWS = ("domain", "bytes", "tokens")
MEMORIES = ("persistent", "scratch")
"""What the rows begin with that read a memory: the dense control, which is to be equal in all but its kind, reads none,
so that they are not set against it."""


def ablation(frame: "pd.DataFrame", experts: list[str], seed: int = 0) -> dict[str, Any]:
    """{"best_expert", "documents", "rows"} of one row of sums per document, as `score` makes it; a row is
    {"scorer", "bits_per_byte", "calibrated", "against": {"best_expert", "dense"}}.

    "calibrated" is None for what has no calibration. A comparison is {"change", "low", "high"}: the calibrated bits
    over the other's calibrated bits, less 1, and its 95% interval over documents; None without calibration or without
    the other, and against dense for rows with a memory.
    """
    others = ("weight.", LATE, CALIBRATED)
    names = [name for name in frame.columns if name not in NOT_ROWS and not name.startswith(others)]
    known = [name for name in names if CALIBRATED + name in frame.columns]
    sums_NC = frame[[CALIBRATED + name for name in known]].to_numpy(float)
    total_C, drawn_SC = sums_NC.sum(axis=0), resampled_totals(sums_NC, seed=seed)
    place = {name: index for index, name in enumerate(known)}
    best = min(set(experts) & set(known), key=lambda name: total_C[place[name]], default=None)
    bits = np.log(2) * frame["bytes"].sum()

    def compared(name: str, other: str | None) -> dict[str, float] | None:
        if name not in place or other not in place or name == other:
            return None
        # A resample may have drawn nothing but empty documents.
        some_SC = drawn_SC[drawn_SC[:, place[other]] > 0]
        low, high = interval(some_SC[:, place[name]] / some_SC[:, place[other]] - 1)
        return {"change": total_C[place[name]] / total_C[place[other]] - 1, "low": low, "high": high}

    rows = [
        {"scorer": name, "bits_per_byte": float(frame[name].sum() / bits),
         "calibrated": float(total_C[place[name]] / bits) if name in place else None,
         "against": {"best_expert": compared(name, best),
                     "dense": None if name.startswith(MEMORIES) else compared(name, "dense")}}
        for name in names
    ]  # fmt: skip
    return {"best_expert": best, "documents": len(frame), "rows": rows}
