"""Bits per byte of documents, for the mixture and everything it is compared with."""

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nano_think.core.errors import InputError
from nano_think.evaluation.memories import Memories, look_up, score_memories, values_of
from nano_think.evaluation.reading import Document, Reading, read
from nano_think.evaluation.scorers import CALIBRATED, Controls
from nano_think.evaluation.scratch import score_scratch
from nano_think.evaluation.slots import score_slots
from nano_think.models.chat import Model

if TYPE_CHECKING:
    import pandas as pd

MEMORY_COLUMNS = ("persistent", "persistent_shuffled", "scratch", "scratch_shuffled")


def score(
    model: Model,
    documents: Iterable[Document],
    window: int,
    memories: Memories | None = None,
    note: Callable[[int], None] = lambda tokens: None,
    seed: int = 0,
    controls: Controls | None = None,
    watch: Callable[[Reading], None] = lambda reading: None,
) -> "pd.DataFrame":
    """One row per document: domain, bytes, tokens, nats by scorer (plain, and "calibrated.<scorer>"), and mean routing
    weight by expert ("weight.<expert>").

    Only sums over whole documents are kept, so memory does not grow with the text. `note` hears of the tokens done,
    `watch` is shown every reading.
    """
    import pandas as pd

    frames = []
    control_S = memories.store.shuffled_values(seed) if memories else np.zeros(0, dtype=np.int64)
    for reading in read(model, documents, window, controls):
        more = _with_memories(model, reading, memories, control_S, window, seed, controls) if memories else {}
        frames.append(_by_document(reading, reading.nats | more, model.names))
        note(len(reading.target))
        watch(reading)
    frame = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame({"bytes": []})
    if not frame["bytes"].sum():
        raise InputError("no text to evaluate; give a file with at least one row whose text is not empty")
    return frame


def _with_memories(
    model: Model, reading: Reading, memories: Memories, control_S: np.ndarray, window: int, seed: int,
    controls: Controls | None,
) -> dict[str, torch.Tensor]:  # fmt: skip
    """The mixture's nats with each memory, each way to read it and each control, plain and, where the mixture is
    calibrated, on top of that.
    """
    looked_up, values = look_up(reading, memories.store), values_of(reading, memories.store, control_S, seed)
    found = score_memories(reading, memories, looked_up, values)
    if memories.reader:
        found |= score_scratch(reading, memories.reader, window, values["scratch"][1])
    if memories.slots and model.fusion == "hidden":
        calibration = controls.calibrations.get("mixture") if controls else None
        found |= score_slots(reading, memories, looked_up, values, model.head, calibration)
    return found


def _by_document(reading: Reading, nats: dict[str, torch.Tensor], names: list[str]) -> "pd.DataFrame":
    import pandas as pd

    n = len(reading.documents)
    count = torch.bincount(reading.document, minlength=n)
    columns = {name: _sum(values, reading.document, n) for name, values in nats.items()}
    weights = {f"weight.{name}": _sum(reading.weights[:, k], reading.document, n) for k, name in enumerate(names)}
    return pd.DataFrame({
        "domain": [document.domain for document in reading.documents],
        "bytes": [document.bytes for document in reading.documents],
        "tokens": count.numpy(),
        **columns,
        **{name: total / count.clamp_min(1).numpy() for name, total in weights.items()},
    })  # fmt: skip


def _sum(values_N: torch.Tensor, document_N: torch.Tensor, n: int):
    return torch.zeros(n, dtype=torch.float64).index_add_(0, document_N, values_N.double()).numpy()


def bits_per_byte(frame: "pd.DataFrame", column: str) -> float:
    """Total nats of a scorer as bits, over the total bytes."""
    total = int(frame["bytes"].sum())
    return float(frame[column].sum()) / math.log(2) / total if total else math.nan


def summarise(frame: "pd.DataFrame", experts: list[str]) -> dict[str, Any]:
    """The figures of an evaluation, under the keys that `nano-think eval --json` prints; `None` for what there is
    not.

    Figures are plain, what the models say as they are; those of "calibrated" are what claims are made of.
    """
    figures = _figures(frame, experts)
    domains = {str(domain): _figures(part, experts) for domain, part in frame.groupby("domain")}
    calibrated = _bits(frame, experts, CALIBRATED) if CALIBRATED + "mixture" in frame.columns else None
    return figures | {"calibrated": calibrated, "memory": _memory(frame), "domains": domains}


def _figures(frame: "pd.DataFrame", experts: list[str]) -> dict[str, Any]:
    return _bits(frame, experts) | {
        "weights": {name: _mean_weight(frame, name) for name in experts},
        "documents": len(frame),
        "bytes": int(frame["bytes"].sum()),
        "tokens": int(frame["tokens"].sum()),
    }


def _bits(frame: "pd.DataFrame", experts: list[str], prefix: str = "") -> dict[str, Any]:
    dense = f"{prefix}dense"
    return {
        "bits_per_byte": bits_per_byte(frame, f"{prefix}mixture"),
        "experts": {name: bits_per_byte(frame, prefix + name) for name in experts},
        "uniform": bits_per_byte(frame, f"{prefix}uniform"),
        "dense": bits_per_byte(frame, dense) if dense in frame.columns else None,
    }


def _mean_weight(frame: "pd.DataFrame", name: str) -> float:
    tokens = frame["tokens"]
    return float((frame[f"weight.{name}"] * tokens).sum() / max(1, tokens.sum()))


def _memory(frame: "pd.DataFrame") -> dict[str, Any] | None:
    if not set(MEMORY_COLUMNS) <= set(frame.columns):
        return None
    return {
        kind: {
            "mixture": bits_per_byte(frame, kind),
            "dense": None,
            "shuffled": bits_per_byte(frame, f"{kind}_shuffled"),
        }
        for kind in ("scratch", "persistent")
    }
