"""The cosine between the gradients of a loss's terms, and where a training tells it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from nano_think.training.cosines import gradient_cosines
from nano_think.training.loop import train
from tests.tiny_training import CONFIG, SEED, make_objective, make_windows


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
