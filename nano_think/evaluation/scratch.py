"""What a trained scratch memory adds, token by token, and what it adds where the model itself cannot look back."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from nano_think.evaluation.bootstrap import interval, resampled_totals
from nano_think.evaluation.reading import Reading
from nano_think.evaluation.scorers import CALIBRATED
from nano_think.memory.scratch import ScratchReader, Told, train_reader

if TYPE_CHECKING:
    import pandas as pd

TRAINED, LATE = "scratch_trained", "late."
"""The row of the trained scratch memory, and what the columns of tokens beyond the first window begin with."""
COLUMNS = (TRAINED, f"{TRAINED}_shuffled", f"{LATE}off", f"{LATE}memory", f"{LATE}shuffled")


def fit_reader(readings: Sequence[Reading], window: int) -> ScratchReader:
    """A reader trained on the documents of readings."""
    # What was read in inference mode can be trained on as a copy alone.
    documents = [Told(*(part.clone() for part in told)) for reading in readings for _, told in told_by(reading)]
    return train_reader(documents, readings[0].hidden.shape[1], window)


def told_by(reading: Reading) -> Iterator[tuple[slice, Told]]:
    """Each document of a reading that has text: its place in it, and what the mixture said of it."""
    for index in reading.document.unique().tolist():
        place = reading.of(index)
        yield place, Told(reading.hidden[place], reading.target[place], reading.nats["mixture"][place])


@torch.no_grad()
def score_scratch(reading: Reading, reader: ScratchReader, window: int, control_N: Tensor) -> dict[str, Tensor]:
    """Nats of every token by column: with all earlier tokens remembered, plain and with the values `control_N` in their
    place; and of tokens beyond a document's first window alone (0 elsewhere), without memory and with what lies beyond
    the window remembered, plain and shuffled. All of it once more, where the mixture is calibrated.
    """
    said = {prefix: f"{prefix}mixture" for prefix in ("", CALIBRATED) if f"{prefix}mixture" in reading.nats}
    found = {prefix + name: torch.zeros(len(control_N)) for prefix in said for name in COLUMNS}
    for place, told in told_by(reading):
        values = (told.target, control_N[place])
        every, late = reader.recall(told, window, "all", values), torch.arange(len(told.target)) >= window
        beyond = reader.recall(told, window, "beyond", values) if late.any() else every
        for prefix, name in said.items():
            nats_T = reading.nats[name][place]
            late_T = nats_T, beyond.mixed(nats_T), beyond.mixed(nats_T, 1)
            columns = every.mixed(nats_T), every.mixed(nats_T, 1), *(part * late for part in late_T)
            for column, value_T in zip(COLUMNS, columns, strict=True):
                found[prefix + column][place] = value_T
    return found


def beyond_window(frame: "pd.DataFrame", prefix: str = "") -> dict[str, Any] | None:
    """What remembering all that lies beyond the window changes in the nats of the tokens behind a document's first
    window: {"documents", "memory", "shuffled"}, the last two {"change", "low", "high"} with 95% intervals over
    documents. None where it was not measured or no document is that long.
    """
    names = [f"{prefix}{LATE}{name}" for name in ("off", "memory", "shuffled")]
    if not set(names) <= set(frame.columns):
        return None
    long = frame[frame[names[0]] > 0]
    if not len(long):
        return None
    sums_N3 = long[names].to_numpy(float)
    total_3, drawn_S3 = sums_N3.sum(axis=0), resampled_totals(sums_N3)
    return {"documents": len(long)} | {
        name: dict(zip(("change", "low", "high"), _change(total_3, drawn_S3, place), strict=True))
        for place, name in ((1, "memory"), (2, "shuffled"))
    }


def _change(total_3: np.ndarray, drawn_S3: np.ndarray, place: int) -> Iterable[float]:
    return float(total_3[place] / total_3[0] - 1), *interval(drawn_S3[:, place] / drawn_S3[:, 0] - 1)
