"""Snapshots of a trained index: what was learned from the keys, so that opening a large memory needs no training.

The keys are in the log, and an exact index is nothing but them: only inverted lists have a snapshot. It is believed if
its sha256 is right and it was taken of this generation of the log, and else ignored: the log alone is enough.
"""

import contextlib
import hashlib
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from nano_think.core.errors import ArtifactError
from nano_think.core.files import read_json, replacing, sha256, sync, write_json
from nano_think.memory.index import Lists

LISTS, ABOUT = "lists.safetensors", "lists.json"


def save_snapshot(folder: Path, generation: str, lists: Lists) -> None:
    """Write the lists of the first entries of a generation of the log."""
    with replacing(folder / LISTS) as temporary:
        temporary.write_bytes(save({"centre": lists.centre, "list_of": lists.list_of}))
    about = {"probes": lists.probes, "trained_on": lists.trained_on, "sha256": sha256(folder / LISTS)}
    write_json(folder / ABOUT, about | {"generation": generation})


def load_snapshot(folder: Path, generation: str, entries: int, width: int) -> Lists | None:
    """The lists of this generation, which has so many entries now; None where there is no snapshot to be believed."""
    with contextlib.suppress(ArtifactError, OSError, SafetensorError, KeyError, TypeError, AssertionError):
        about, payload = read_json(folder / ABOUT), (folder / LISTS).read_bytes()
        if about["generation"] != generation or about["sha256"] != hashlib.sha256(payload).hexdigest():
            return None
        columns = load(payload)
        centre, list_of = columns["centre"], columns["list_of"]
        if centre.shape[1:] == (width,) and len(list_of) <= entries and _within(list_of, len(centre)):
            return Lists(centre=centre, list_of=list_of, probes=about["probes"], trained_on=about["trained_on"])
    return None


def _within(list_S: np.ndarray, lists: int) -> bool:
    return not len(list_S) or 0 <= list_S.min() <= list_S.max() < lists


def remove_snapshot(folder: Path) -> None:
    for name in (ABOUT, LISTS):
        (folder / name).unlink(missing_ok=True)
    sync(folder)
