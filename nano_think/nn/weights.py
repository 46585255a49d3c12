"""Tensors in safetensors files, and into modules."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nano_think.core.errors import ArtifactError, storage
from nano_think.core.files import sync


def save_weights(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors as safetensors and flush them to the disk."""
    with writing(path):
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
        sync(path)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around safetensors' writers, which say that the disk is full with an error of their own: `StorageError`."""
    with storage(path):
        try:
            yield
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            if number:
                raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
            raise


def load_weights(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise ArtifactError(f"{path}: missing; run the pipeline again to make it") from None
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path}: damaged ({error}); remove it and run again") from None


def fill(model: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Put tensors into a model of exactly their names and shapes; nothing is changed unless all fit."""
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    got = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(wanted.keys() | got.keys()):
        if wanted.get(name) != got.get(name):
            raise ArtifactError(f"{path}: tensor {name} wanted {wanted.get(name)}, got {got.get(name)}")
    model.load_state_dict(tensors)
