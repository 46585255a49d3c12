"""Tensors in safetensors files, and into modules."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nano_think.core.errors import ArtifactError
from nano_think.core.files import sync


def save_weights(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors as safetensors and flush them to the disk."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    sync(path)


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
