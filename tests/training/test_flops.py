"""One rule of counting for all trainings, which leaves no trace."""

from statistics import fmean

import pytest
import torch
from accelerate import Accelerator

from nano_think.training.estimate import flops_per_token
from nano_think.training.flops import count_flops
from tests.tiny import VOCABULARY, WIDTH
from tests.tiny_training import OBJECTIVES, WINDOW, make_objective, make_windows


def count(objective) -> float:
    return count_flops(objective, make_windows(), Accelerator(cpu=True))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_counting_leaves_no_trace(name: str):
    """Weights, buffers, gradients and the random stream are as they were: a training that counts is the same one."""
    objective = make_objective(name)
    before = {key: value.clone() for key, value in objective.state_dict().items()}
    drawn = torch.get_rng_state()
    assert count(objective) == count(objective) > 0
    assert torch.equal(drawn, torch.get_rng_state())
    assert all(torch.equal(value, before[key]) for key, value in objective.state_dict().items())
    assert all(parameter.grad is None for parameter in objective.parameters())


def test_mean_over_the_cases_is_that_of_many_draws():
    """The diffuser draws its blocks; afterwards it draws as before."""
    objective = make_objective("diffuser")
    settings = objective.expert.config
    exact, window_T1 = count(objective), torch.from_numpy(make_windows().batch(0)[0])
    assert objective.expert.config is settings
    drawn = [flops_per_token(objective, window_T1, Accelerator(cpu=True)) for _ in range(80)]
    assert min(drawn) < 0.98 * exact < exact < 0.98 * max(drawn)
    assert exact == pytest.approx(fmean(drawn), rel=0.03)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_cases_are_all_there_is(name: str):
    assert sum(make_objective(name).cases()) == pytest.approx(1.0)


def test_transformer_by_hand():
    """For each token six for each number of a matrix, four for each of the head's, which does not learn, and twelve for
    each channel of a pair in attention, of which a token has (T + 1) / 2.
    """
    objective = make_objective("transformer", dropout=0.0)
    matrices = sum(one.numel() for one in objective.expert.parameters() if one.ndim == 2)
    layers = len(objective.expert.blocks)
    attention = layers * 12 * WIDTH * (WINDOW + 1) / 2
    assert count(objective) == pytest.approx(6 * matrices + 4 * VOCABULARY * WIDTH + attention, rel=0.001)
