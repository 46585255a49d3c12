"""What a model that remembers keeps of all that a namespace has said, beside its log: a copy, which may be missing.

It is believed if its sha256 is right, and goes on from where it was taken if that is in this generation of the log;
else it is ignored: the log alone is enough. It holds traces of everything up to its clock, so whatever erases from the
log removes it first.
"""

import contextlib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from nano_think.core.errors import ArtifactError
from nano_think.core.files import read_json, replacing, sync, write_json

STATE, ABOUT = "state.safetensors", "state.json"


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What the parts of a model keep, by part and by name, of what a generation of a log holds before a clock."""

    generation: str
    clock: int
    parts: Mapping[str, Mapping[str, Tensor]]


def save_kept(folder: Path, kept: Kept) -> None:
    """Write it; a crash at any moment leaves this one, the one before or none."""
    tensors = {f"{part}.{name}": x.cpu().contiguous() for part, own in kept.parts.items() for name, x in own.items()}
    payload = save(tensors)
    about = {"generation": kept.generation, "clock": kept.clock, "sha256": hashlib.sha256(payload).hexdigest()}
    with replacing(folder / STATE) as temporary:
        temporary.write_bytes(payload)
    write_json(folder / ABOUT, about)


def load_kept(folder: Path) -> Kept | None:
    """What was saved last; None where there is nothing to be believed."""
    with contextlib.suppress(ArtifactError, OSError, SafetensorError, KeyError, TypeError, ValueError):
        about, payload = read_json(folder / ABOUT), (folder / STATE).read_bytes()
        if about["sha256"] == hashlib.sha256(payload).hexdigest():
            parts: dict[str, dict[str, Tensor]] = {}
            for key, tensor in load(payload).items():
                part, name = key.split(".")
                parts.setdefault(part, {})[name] = tensor
            return Kept(generation=str(about["generation"]), clock=int(about["clock"]), parts=parts)
    return None


def remove_kept(folder: Path) -> None:
    """Leave no trace of what was said."""
    for name in (ABOUT, STATE):
        (folder / name).unlink(missing_ok=True)
    sync(folder)
