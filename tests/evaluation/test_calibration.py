"""Calibration: two numbers, found where they are known, convex, the same for everybody."""

import pytest
import torch
from torch.autograd.functional import hessian, jacobian

from nano_think.evaluation.calibration import Calibration, _loss, fit_calibration, fit_static
from nano_think.heads.language import LanguageHead
from tests.tiny import VOCABULARY, WIDTH, tiny_head

N = 6000


def say(head: LanguageHead, hidden_ND: torch.Tensor, scale: float = 1.0, bias: float = 1.0) -> torch.Tensor:
    """Targets drawn from the calibrated distribution."""
    logits_NV = scale * (head.logits(hidden_ND) - head.bias) + bias * head.bias
    return torch.multinomial(logits_NV.softmax(-1), 1)[:, 0]


def states(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, WIDTH)


@pytest.mark.parametrize(("scale", "bias"), [(1.0, 1.0), (0.5, 1.0), (1.6, 0.3), (0.8, 1.8)])
def test_a_known_scale_and_coefficient_are_found(scale: float, bias: float):
    head, hidden_ND = tiny_head(), states(N)
    found = fit_calibration(head, hidden_ND, say(head, hidden_ND, scale, bias))
    assert found.scale == pytest.approx(scale, abs=0.06)
    assert found.bias == pytest.approx(bias, abs=0.06)


def test_slope_and_curvature_are_those_of_the_loss():
    """The plain twin: autograd over all logits."""
    head, hidden_ND = tiny_head(), states(40)
    target_N, at_2 = say(head, hidden_ND), torch.tensor([0.7, 1.3], dtype=torch.float64)

    def plain(at_2: torch.Tensor) -> torch.Tensor:
        own_NV = (hidden_ND @ head.table.T * WIDTH**-0.5).double()
        logits_NV = at_2[0] * own_NV + at_2[1] * head.bias.double()
        return torch.nn.functional.cross_entropy(logits_NV, target_N)

    loss, slope_2, curve_22 = _loss(head, hidden_ND, target_N, at_2)
    torch.testing.assert_close(loss, plain(at_2), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(slope_2, jacobian(plain, at_2), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(curve_22, hessian(plain, at_2), rtol=1e-3, atol=1e-5)


def test_a_calibrated_model_is_never_worse_where_it_was_fitted():
    head, hidden_ND = tiny_head(), 5 * states(500)
    target_N = torch.randint(VOCABULARY, (500,))
    found = fit_calibration(head, hidden_ND, target_N)
    assert found.nll(head, hidden_ND[None], target_N[None]).mean() < head.nll(hidden_ND[None], target_N[None]).mean()


def test_both_numbers_are_applied():
    """The plain twin: all logits at once."""
    head, hidden_ND, target_N = tiny_head(), states(50), torch.randint(VOCABULARY, (50,))
    logits_NV = 0.7 * (head.logits(hidden_ND) - head.bias) + 1.3 * head.bias
    plain_N = torch.nn.functional.cross_entropy(logits_NV, target_N, reduction="none")
    found_BT = Calibration(scale=0.7, bias=1.3).nll(head, hidden_ND[None], target_N[None])
    torch.testing.assert_close(found_BT[0], plain_N, rtol=1e-4, atol=1e-5)


def test_one_and_one_change_no_bit():
    head, hidden_ND, target_N = tiny_head(), states(50), torch.randint(VOCABULARY, (50,))
    plain = head.nll(hidden_ND[None], target_N[None])
    assert torch.equal(Calibration().nll(head, hidden_ND[None], target_N[None]), plain)


@pytest.mark.parametrize("flat", ["hidden", "bias"])
def test_a_direction_that_changes_nothing_is_left_alone(flat: str):
    """An expert that has learned nothing says nothing, and a bias may be even."""
    head, hidden_ND = tiny_head(), states(300)
    if flat == "hidden":
        hidden_ND = torch.zeros_like(hidden_ND)
    else:
        head.bias.zero_()
    found = fit_calibration(head, hidden_ND, say(head, hidden_ND))
    assert (found.scale if flat == "hidden" else found.bias) == pytest.approx(1.0)


def test_static_weights_find_who_speaks():
    """Targets follow a mixture of 0.2 and 0.8, 1.5 times as loud."""
    head, streams_NKD = tiny_head(), states(N, 2)
    wanted_K = 1.5 * torch.tensor([0.2, 0.8])
    target_N = say(head, torch.einsum("k,nkd->nd", wanted_K, streams_NKD))
    assert fit_static(head, streams_NKD, target_N) == pytest.approx(wanted_K.tolist(), abs=0.06)
