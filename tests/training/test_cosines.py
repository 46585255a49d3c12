"""The terms of a loss beside each other: the cosines of their gradients, and what each counts."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from nano_think.training.cosines import gradient_cosines
from nano_think.training.loop import train
from nano_think.training.objectives import Objective
from tests.tiny import START
from tests.tiny_training import CONFIG, SEED, make_objective, make_windows
from tests.training.test_loop import Killed, dying_at


def test_cosines_are_those_of_the_gradients():
    a, b = nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor([3.0]))
    terms = {
        "first": a.sum() * 2, "along": a.sum() * 7, "against": -a.sum(), "across": a[0] - a[1], "apart": b.sum() * 1,
        "half": a[0] + 5 * b[0], "still": torch.tensor(1.0),
    }  # fmt: skip
    found = gradient_cosines(terms, [a, b])
    wanted = {"along": 1.0, "against": -1.0, "across": 0.0, "half": 0.5**0.5}
    assert found == pytest.approx(wanted)
    assert a.grad is None


def test_a_training_tells_them_with_each_line_of_its_log(tmp_path: Path):
    """And takes the same steps as without."""
    weights, told = [], []
    for cosines in (False, True):
        objective, events = make_objective("chat psyche"), []
        config = replace(CONFIG, cosines=cosines)
        train(objective, make_windows(), config, Accelerator(cpu=True), tmp_path / str(cosines), events.append, SEED)
        weights.append(torch.cat([parameter.flatten() for parameter in objective.parameters()]))
        told.append([set(event) for event in events if event["event"] == "step"])
    assert torch.equal(*weights)
    assert not any("cosine.psyche.ego" in names for names in told[0])
    assert any("cosine.psyche.ego" in names for names in told[1])


class Two(Objective):
    """Two terms, of a number each, the second of any size."""

    def __init__(self, size: float):
        super().__init__(START)
        self.first, self.second, self.size = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1)), size

    def forward(self, tokens_BT1: torch.Tensor, share: float) -> dict[str, torch.Tensor]:
        return {"first": self.first.sum(), "second": self.size * self.second.sum()}


def gradients(size: float, evened: float, tmp_path: Path) -> list[float]:
    """Of the second term's number, step by step."""
    objective, found = Two(size), []
    objective.second.register_hook(lambda gradient: found.append(float(gradient)))
    config = replace(CONFIG, evened=evened)
    train(objective, make_windows(), config, Accelerator(cpu=True), tmp_path / f"{size}", lambda event: None, SEED)
    return found


def test_terms_that_are_evened_count_alike_whatever_their_size(tmp_path: Path):
    """From the second step on, and the first term as it is."""
    large, small = (gradients(size, 0.1, tmp_path) for size in (100.0, 0.01))
    assert large[0] == pytest.approx(100.0) and small[0] == pytest.approx(0.01)
    assert large[1:] == pytest.approx(small[1:], rel=1e-3) and large[1] == pytest.approx(0.1, rel=1e-3)


def test_an_evened_training_goes_on_as_it_was(tmp_path: Path):
    """The sizes that the terms had come back with a checkpoint."""
    config, weights = replace(CONFIG, evened=0.1), []
    for cut in (False, True):
        folder = tmp_path / str(cut)
        if cut:
            with pytest.raises(Killed):
                train(make_objective("chat psyche"), make_windows(), config, Accelerator(cpu=True), folder,
                      dying_at(5, []), SEED)  # fmt: skip
        objective = make_objective("chat psyche")
        train(objective, make_windows(), config, Accelerator(cpu=True), folder, lambda event: None, SEED)
        weights.append(torch.cat([parameter.flatten() for parameter in objective.parameters()]))
    assert torch.equal(*weights)
