"""The loss on held-out text: it changes nothing of the training, and the best weights are what is left in the end."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from nano_think.data.loader import Windows
from nano_think.experts import masked_mean
from nano_think.training.loop import Log, TrainConfig, train
from nano_think.training.validation import Validation
from tests.perturbation import randomise_zeros
from tests.tiny import START
from tests.tiny_training import CONFIG, OBJECTIVES, SEED, STEPS, WINDOW, make_objective, make_windows

LOOKING = replace(CONFIG, validate_every=3, validate_tokens=100, restore_best=False)


def make_held_out(tokens: int = 200) -> Windows:
    ids = np.random.default_rng(5).integers(0, START, tokens)
    ids[::31] = START
    return Windows(ids, WINDOW, CONFIG.batch, seed=1)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_looking_changes_nothing(name: str, accelerator: Accelerator, tmp_path: Path):
    """The weights of a training that nobody looked at, bit for bit, dropout on."""
    plain, looked_at = make_objective(name), make_objective(name)
    train(plain, make_windows(), CONFIG, accelerator, tmp_path / "plain", lambda event: None, SEED)
    events: list[dict[str, Any]] = []
    arguments = (LOOKING, accelerator, tmp_path / "looked", events.append, SEED, make_held_out())
    figures = train(looked_at, make_windows(), *arguments)
    ours = looked_at.state_dict()
    assert all(torch.equal(value, ours[key]) for key, value in plain.state_dict().items())
    looks = [(event["step"], event["loss"]) for event in events if event["event"] == "validation"]
    assert [step for step, _ in looks] == [3, 6, 9, STEPS]
    assert figures["validation"] == looks[-1][1]
    assert (figures["best_validation"], figures["best_step"]) == min((loss, step) for step, loss in looks)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_loss_is_that_of_the_next_token_drawing_nothing(name: str, accelerator: Accelerator):
    """Twice the same, in evaluation mode, and for experts that of `forward` under the head."""
    objective = randomise_zeros(make_objective(name)).train()
    validation = Validation(objective, make_held_out(), 100, accelerator)
    first = validation.look(1)
    torch.rand(3)
    assert validation.look(2) == first and objective.training
    if hasattr(objective, "expert"):
        objective.eval()
        losses, counts = [], []
        for step in range(validation.steps):
            tokens = torch.from_numpy(make_held_out().batch(step))
            inputs, targets = tokens[:, :-1], tokens[:, 1:]
            hidden = objective.expert(objective.head.embed(inputs), (inputs == START).cumsum(1))
            losses.append(masked_mean(objective.head.nll_plainly(hidden, targets), targets != START))
            counts.append((targets != START).sum())
        mean = sum(loss * count for loss, count in zip(losses, counts, strict=True)) / sum(counts)
        assert first == pytest.approx(mean.item(), rel=1e-5)


def test_the_budget_is_kept_and_the_text_is_read_once_at_most(accelerator: Accelerator):
    objective = make_objective("transformer")
    held_out = make_held_out(1000)
    assert Validation(objective, held_out, 2 * 4 * WINDOW, accelerator).steps == 2
    assert Validation(objective, held_out, 1, accelerator).steps == 1
    assert Validation(objective, held_out, 10**9, accelerator).steps == held_out.steps_per_epoch


FAST = replace(CONFIG.optim, matrix_rate=2.0, vector_rate=2.0, decay=0.0)
WORSENING = replace(LOOKING, validate_every=1, optim=FAST, restore_best=True)


def worsen(
    folder: Path, accelerator: Accelerator, config: TrainConfig = WORSENING, log: Log = lambda event: None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A training at a rate that makes the held-out loss worse: its weights and figures, without the time."""
    objective = make_objective("transformer")
    figures = train(objective, make_windows(), config, accelerator, folder, log, SEED, make_held_out())
    return objective.state_dict(), {
        name: value for name, value in figures.items() if name not in ("seconds", "tokens_per_second")
    }


def test_the_best_weights_are_left_in_the_end(accelerator: Accelerator, tmp_path: Path):
    """Those of the step that is named, as a look at them confirms."""
    last, figures = worsen(tmp_path / "last", accelerator, replace(WORSENING, restore_best=False))
    best, again = worsen(tmp_path / "best", accelerator)
    assert figures["best_step"] == again["best_step"] < STEPS
    assert any(not torch.equal(value, best[key]) for key, value in last.items())
    objective = make_objective("transformer")
    objective.load_state_dict(best)
    look = Validation(objective, make_held_out(), WORSENING.validate_tokens, accelerator).look(0)
    assert look == figures["best_validation"] < figures["validation"]


class Killed(Exception):
    """Stands for a kill: nothing in the library knows it."""


def test_the_best_weights_survive_a_kill(accelerator: Accelerator, tmp_path: Path):
    """A training that is stopped after its best step and goes on ends with the same weights and figures."""

    def die(event: dict[str, Any]) -> None:
        if event["event"] == "saved" and event["step"] == 9:
            raise Killed

    whole, figures = worsen(tmp_path / "whole", accelerator)
    with pytest.raises(Killed):
        worsen(tmp_path / "cut", accelerator, log=die)
    cut, again = worsen(tmp_path / "cut", accelerator)
    assert figures["best_step"] < 9 and again == figures
    assert all(torch.equal(value, cut[key]) for key, value in whole.items())
