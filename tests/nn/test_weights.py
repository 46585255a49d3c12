"""Tensors in files: equal bits back, and one clear word about what does not fit."""

import errno
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from nano_think.core.errors import ArtifactError, StorageError
from nano_think.nn import weights
from nano_think.nn.weights import fill, load_weights, save_weights


def test_what_is_saved_comes_back_bit_for_bit(tmp_path: Path):
    saved = {"a.b": torch.randn(3, 4).T, "n": torch.tensor(7), "half": torch.randn(5).bfloat16()}
    save_weights(tmp_path / "w.safetensors", saved)
    loaded = load_weights(tmp_path / "w.safetensors")
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[name], saved[name]) and loaded[name].dtype == saved[name].dtype for name in saved)


def test_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ArtifactError, match=r"w.safetensors: missing"):
        load_weights(tmp_path / "w.safetensors")


@pytest.mark.parametrize("keep", [0, 4, 30, -1], ids=["empty", "header cut", "header torn", "last byte gone"])
def test_torn_file_is_named(tmp_path: Path, keep: int):
    path = tmp_path / "w.safetensors"
    save_weights(path, {"a": torch.randn(9)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ArtifactError, match=r"w.safetensors: damaged"):
        load_weights(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("weight"), "tensor weight wanted .2, 3., got None"),
        (lambda t: t.update(weight=torch.zeros(3, 2)), "tensor weight wanted .2, 3., got .3, 2."),
        (lambda t: t.update(extra=torch.zeros(1)), "tensor extra wanted None, got .1,."),
    ],
    ids=["missing", "other shape", "too many"],
)
def test_a_tensor_that_does_not_fit_is_named_and_nothing_is_changed(change, message):
    model = torch.nn.Linear(3, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tensors = {name: value + 1 for name, value in model.state_dict().items()}
    change(tensors)
    with pytest.raises(ArtifactError, match=message):
        fill(model, tensors, Path("w.safetensors"))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_full_disk_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """safetensors reports the operating system's refusal in words of its own."""

    def refuse(tensors, path):
        raise SafetensorError(f"Error while serializing: I/O error: No space (os error {errno.ENOSPC})")

    monkeypatch.setattr(weights, "save_file", refuse)
    with pytest.raises(StorageError, match="no space left"):
        save_weights(tmp_path / "w.safetensors", {"a": torch.zeros(1)})
