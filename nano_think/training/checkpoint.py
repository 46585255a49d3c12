"""Checkpoints from which training goes on as if nothing had happened: safetensors and JSON, whole or not there.

`checkpoint-<step>/` holds model.safetensors, optimizer.safetensors (moments and RNG streams), best.safetensors where
there is a validation loss (the weights that had the lowest) and state.json, which is written last and holds the others'
sha256.
"""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from nano_think.core.errors import ArtifactError, storage
from nano_think.core.files import read_json, sha256, sync, write_json
from nano_think.nn.weights import load_weights, save_weights

MODEL, OPTIMIZER, BEST = "model.safetensors", "optimizer.safetensors", "best.safetensors"
Weights = dict[str, Tensor]


class Checkpoint(NamedTuple):
    """What a checkpoint gives back beside what it restores: steps taken, the caller's own JSON, the best weights."""

    step: int
    state: dict[str, Any]
    best: Weights | None


def save_checkpoint(
    folder: Path, step: int, model: nn.Module, optimizers: list[torch.optim.Optimizer], state: dict[str, Any],
    keep: int = 2, best: Weights | None = None,
) -> None:  # fmt: skip
    """Write `folder/checkpoint-<step>` and drop all but the newest `keep`. `state` is the caller's own JSON."""
    path = folder / f"checkpoint-{step:08d}"
    shutil.rmtree(path, ignore_errors=True)
    parts = {MODEL: model.state_dict(), OPTIMIZER: _moments(optimizers) | _rng_streams()}
    parts |= {} if best is None else {BEST: best}
    with storage(path):
        path.mkdir(parents=True)
        for name, tensors in parts.items():
            save_weights(path / name, tensors)
        files = {name: sha256(path / name) for name in parts}
        write_json(path / "state.json", {"step": step, "files": files, "python_rng": random.getstate(), **state})
        sync(folder)
    known = _checkpoints(folder)
    # Later ones than this are damaged, or we should have gone on from them.
    for other in {*known} - {*known[: known.index(path) + 1][-keep:]}:
        shutil.rmtree(other, ignore_errors=True)


def load_checkpoint(
    folder: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer], say: Callable[[str], None]
) -> Checkpoint | None:
    """Restore the newest whole checkpoint below `folder`; None when there is none.

    Everything is read and checked before anything is changed. A damaged checkpoint gives way to the one before it, with
    a word to `say`.
    """
    for path in reversed(_checkpoints(folder)):
        try:
            state = read_json(path / "state.json")
            parts = {name: _read_checked(path / name, digest) for name, digest in state.pop("files").items()}
            weights, rest = parts[MODEL], parts[OPTIMIZER]
        except (ArtifactError, KeyError, AttributeError, OSError):
            say(f"{path.name} is damaged: the training goes on from the one before it, or from the start")
            continue
        model.load_state_dict(weights)
        _restore_moments(optimizers, rest)
        _restore_rng(rest, state.pop("python_rng"))
        return Checkpoint(state.pop("step"), state, parts.get(BEST))
    return None


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("checkpoint-*/state.json"))


def _read_checked(path: Path, digest: str) -> dict[str, Tensor]:
    if sha256(path) != digest:
        raise ArtifactError(f"{path}: damaged (sha256 differs)")
    return load_weights(path)


def _moments(optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    return {
        f"{index}.{parameter}.{name}": torch.as_tensor(value)
        for index, optimizer in enumerate(optimizers)
        for parameter, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }


def _restore_moments(optimizers: list[torch.optim.Optimizer], tensors: dict[str, Tensor]) -> None:
    for index, optimizer in enumerate(optimizers):
        values: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            owner, _, name = key.partition(".")
            if owner == str(index):
                parameter, _, name = name.partition(".")
                values.setdefault(int(parameter), {})[name] = tensor
        optimizer.load_state_dict({"state": values, "param_groups": optimizer.state_dict()["param_groups"]})


def _rng_streams() -> dict[str, Tensor]:
    state = np.random.get_state(legacy=True)
    assert isinstance(state, tuple) and state[0] == "MT19937"
    _, keys, position, has_gauss, cached = state
    streams = {"rng.torch": torch.get_rng_state(), "rng.numpy.keys": torch.from_numpy(keys.astype(np.int64))}
    streams["rng.numpy.rest"] = torch.tensor([position, has_gauss, cached], dtype=torch.float64)
    for index in range(torch.cuda.device_count()):
        streams[f"rng.cuda.{index}"] = torch.cuda.get_rng_state(index)
    return streams


def _restore_rng(tensors: dict[str, Tensor], python_state: list[Any]) -> None:
    torch.set_rng_state(tensors["rng.torch"])
    position, has_gauss, cached = tensors["rng.numpy.rest"].tolist()
    keys = tensors["rng.numpy.keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, int(position), int(has_gauss), cached))
    random.setstate((python_state[0], tuple(python_state[1]), python_state[2]))
    for index in range(torch.cuda.device_count()):
        if f"rng.cuda.{index}" in tensors:
            torch.cuda.set_rng_state(tensors[f"rng.cuda.{index}"], index)
