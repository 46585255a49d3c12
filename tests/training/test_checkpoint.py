"""Checkpoints: whole or not there, two of them, and a damaged one gives way."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from nano_think.training.checkpoint import load_checkpoint, save_checkpoint
from nano_think.training.optim import OptimConfig, build_optimizers


def make(seed: int = 0) -> tuple[nn.Module, list[torch.optim.Optimizer]]:
    """A model for both optimisers, after a step of each."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.RMSNorm(6), nn.Linear(6, 2))
    optimizers = build_optimizers(model, OptimConfig())
    step(model, optimizers)
    return model, optimizers


def step(model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> None:
    model(torch.randn(3, 4)).square().sum().backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def refuse(message: str) -> None:
    raise AssertionError(f"there is nothing to say, but: {message}")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_state_moments_and_random_streams_come_back(tmp_path: Path):
    """After loading, both sides take the same step and draw the same numbers."""
    model, optimizers = make()
    save_checkpoint(tmp_path, 5, model, optimizers, {"skipped": 2})
    drawn = (torch.rand(3), np.random.rand(3).tolist(), random.random(), np.random.normal())
    other, other_optimizers = make(seed=1)
    assert not same(model, other)
    found = load_checkpoint(tmp_path, other, other_optimizers, refuse)
    assert found is not None and found.step == 5 and found.state["skipped"] == 2 and found.best is None
    again = (torch.rand(3), np.random.rand(3).tolist(), random.random(), np.random.normal())
    assert torch.equal(drawn[0], again[0]) and drawn[1:] == again[1:]
    for one in ((model, optimizers), (other, other_optimizers)):
        torch.manual_seed(9)
        step(*one)
    assert same(model, other)


def test_second_half_of_a_gaussian_pair_is_kept(tmp_path: Path):
    model, optimizers = make()
    np.random.seed(0)
    np.random.normal()
    save_checkpoint(tmp_path, 1, model, optimizers, {})
    cached = np.random.normal()
    np.random.seed(5)
    load_checkpoint(tmp_path, model, optimizers, refuse)
    assert np.random.normal() == cached


def test_the_newest_two_are_kept(tmp_path: Path):
    model, optimizers = make()
    for number in (1, 9, 10, 11):
        save_checkpoint(tmp_path, number, model, optimizers, {})
    assert names(tmp_path) == ["checkpoint-00000010", "checkpoint-00000011"]


@pytest.mark.parametrize("keep", [1, 3])
def test_as_many_as_wanted_are_kept(keep: int, tmp_path: Path):
    model, optimizers = make()
    for number in range(1, 6):
        save_checkpoint(tmp_path, number, model, optimizers, {}, keep)
    assert names(tmp_path) == [f"checkpoint-{number:08d}" for number in range(6 - keep, 6)]


def test_the_best_weights_travel_with_every_checkpoint(tmp_path: Path):
    """They come back as they were, and a bit of damage in them is noticed as in the others."""
    model, optimizers = make()
    best = {"a": torch.randn(3)}
    for number in (1, 2):
        save_checkpoint(tmp_path, number, model, optimizers, {}, best=best)
    found = load_checkpoint(tmp_path, model, optimizers, refuse)
    assert found is not None and found.best is not None and torch.equal(found.best["a"], best["a"])
    flip_a_bit(tmp_path / "checkpoint-00000002" / "best.safetensors")
    said: list[str] = []
    found = load_checkpoint(tmp_path, model, optimizers, said.append)
    assert found is not None and found.step == 1 and len(said) == 1


def test_there_is_nothing_to_load(tmp_path: Path):
    model, optimizers = make()
    before = [parameter.clone() for parameter in model.parameters()]
    assert load_checkpoint(tmp_path / "none", model, optimizers, refuse) is None
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "bit of a weight": ("model.safetensors", flip_a_bit),
    "bit of a moment": ("optimizer.safetensors", flip_a_bit),
    "weights cut off": ("model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:50])),
    "moments gone": ("optimizer.safetensors", Path.unlink),
    "state cut off": ("state.json", lambda path: path.write_text(path.read_text()[:20])),
    "state gone, as after a kill": ("state.json", Path.unlink),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(damage: str, tmp_path: Path):
    model, optimizers = make()
    save_checkpoint(tmp_path, 1, model, optimizers, {})
    first = [parameter.clone() for parameter in model.parameters()]
    step(model, optimizers)
    save_checkpoint(tmp_path, 2, model, optimizers, {})
    name, spoil = DAMAGE[damage]
    spoil(tmp_path / "checkpoint-00000002" / name)
    said: list[str] = []
    found = load_checkpoint(tmp_path, model, optimizers, said.append)
    assert found is not None and found.step == 1
    # A checkpoint without its state never was one, and nothing is lost.
    assert len(said) == (damage != "state gone, as after a kill") and all("checkpoint-00000002" in one for one in said)
    assert all(torch.equal(a, b) for a, b in zip(first, model.parameters(), strict=True))


def test_a_damaged_newer_checkpoint_does_not_push_out_a_whole_one(tmp_path: Path):
    """After going on from an older one, the damaged one counts for nothing among the two that are kept."""
    model, optimizers = make()
    for number in (10, 20):
        save_checkpoint(tmp_path, number, model, optimizers, {})
    flip_a_bit(tmp_path / "checkpoint-00000020" / "model.safetensors")
    save_checkpoint(tmp_path, 12, model, optimizers, {})
    assert names(tmp_path) == ["checkpoint-00000010", "checkpoint-00000012"]


def test_all_damaged_is_none_and_changes_nothing(tmp_path: Path):
    model, optimizers = make()
    save_checkpoint(tmp_path, 1, model, optimizers, {})
    flip_a_bit(tmp_path / "checkpoint-00000001" / "optimizer.safetensors")
    step(model, optimizers)
    before = [parameter.clone() for parameter in model.parameters()]
    said: list[str] = []
    assert load_checkpoint(tmp_path, model, optimizers, said.append) is None
    assert said == ["checkpoint-00000001 is damaged: the training goes on from the one before it, or from the start"]
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_state_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A checkpoint whose writing broke off has no state.json, and is nothing."""
    model, optimizers = make()

    def fail(path: Path, value) -> None:
        assert {"model.safetensors", "optimizer.safetensors"} <= set(names(path.parent))
        raise KeyboardInterrupt

    monkeypatch.setattr("nano_think.training.checkpoint.write_json", fail)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, 1, model, optimizers, {})
    assert load_checkpoint(tmp_path, model, optimizers, refuse) is None
