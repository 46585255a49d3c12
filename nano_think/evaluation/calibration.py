"""Calibration: how loud a model speaks and how much the unigram bias counts, two numbers fitted on held-out text.

logits = s E h / sqrt(D) + c b. Models that were trained too long are too sure of themselves, and averaging them repairs
that: without calibration a mixture is praised for what a single number does for any model (Guo et al. 2017, "On
calibration of modern neural networks", temperature scaling).

N tokens, D model width, V vocabulary, K experts
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from nano_think.heads.language import LanguageHead

STEPS, HALVINGS = 30, 8
# What a further step could gain at most before it is not worth one (nats).
ENOUGH = 1e-7
# Numbers of a block of logits.
BLOCK = 2**20


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The scale s of a model's own logits and the coefficient c of the bias; 1 and 1 change nothing."""

    scale: float = 1.0
    bias: float = 1.0

    def nll(self, head: LanguageHead, hidden_BTD: Tensor, targets_BT: Tensor) -> Tensor:
        """Negative log-likelihood of each target in nats, (B, T), as this model says it when it is calibrated."""
        return LanguageHead(head.table, self.bias * head.bias).nll(self.scale * hidden_BTD, targets_BT)


def fit_calibration(head: LanguageHead, hidden_ND: Tensor, target_N: Tensor) -> Calibration:
    """The calibration with the least mean loss on the given tokens, by Newton's method.

    The loss is convex in (s, c): a log-sum-exp of functions linear in them, less such a function. A step that does not
    lower it is halved. Directions in which it is flat are left as they are.
    """
    at_2 = torch.ones(2, dtype=torch.float64)
    loss, slope_2, curve_22 = _loss(head, hidden_ND, target_N, at_2)
    for _ in range(STEPS):
        step_2 = torch.linalg.pinv(curve_22, rtol=1e-12, hermitian=True) @ slope_2
        if slope_2 @ step_2 < ENOUGH:
            break
        for _ in range(HALVINGS):
            tried = _loss(head, hidden_ND, target_N, at_2 - step_2)
            if tried[0] <= loss:
                break
            step_2 = step_2 / 2
        else:
            break
        at_2, (loss, slope_2, curve_22) = at_2 - step_2, tried
    return Calibration(scale=float(at_2[0]), bias=float(at_2[1]))


@torch.no_grad()
def _loss(head: LanguageHead, hidden_ND: Tensor, target_N: Tensor, at_2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean loss at (s, c), its gradient and its Hessian: with f(v) = (E_v h / sqrt(D), b_v), the gradient is
    E_p[f] - f(target) and the Hessian Cov_p[f].
    """
    total = torch.zeros(6, dtype=torch.float64)
    for rows in torch.arange(len(target_N)).split(max(1, BLOCK // len(head.table))):
        own_NV = hidden_ND[rows].to(head.table) * head.width**-0.5 @ head.table.T
        target_N1 = target_N[rows, None].to(own_NV.device)
        logits_NV = float(at_2[0]) * own_NV + float(at_2[1]) * head.bias
        log_sum_N = logits_NV.logsumexp(dim=1)
        p_NV = (logits_NV - log_sum_N[:, None]).exp()
        a_N, b_N = (p_NV * own_NV).sum(1), p_NV @ head.bias
        aa_N = (p_NV * own_NV.square()).sum(1) - a_N.square()
        ab_N = (p_NV * own_NV) @ head.bias - a_N * b_N
        bb_N = p_NV @ head.bias.square() - b_N.square()
        nll_N = log_sum_N - logits_NV.gather(1, target_N1)[:, 0]
        slopes = a_N - own_NV.gather(1, target_N1)[:, 0], b_N - head.bias[target_N1[:, 0]]
        total += torch.stack([nll_N, *slopes, aa_N, ab_N, bb_N]).double().sum(dim=1).cpu()
    loss, s, c, ss, sc, cc = (total / len(target_N)).unbind()
    return loss, torch.stack([s, c]), torch.stack([torch.stack([ss, sc]), torch.stack([sc, cc])])


def fit_static(head: LanguageHead, streams_NKD: Tensor, target_N: Tensor) -> tuple[float, ...]:
    """scale * softmax weights over the experts, the same at every token, with the least mean loss on the given tokens.

    Started at equal weights and scale 1, fitted by L-BFGS.
    """
    K = streams_NKD.shape[1]
    logits_K, log_scale = torch.zeros(K, requires_grad=True), torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([logits_K, log_scale], max_iter=30, line_search_fn="strong_wolfe")

    def weights_K() -> Tensor:
        return log_scale.exp() * logits_K.softmax(dim=0)

    def closure() -> float:
        optimizer.zero_grad()
        total = 0.0
        for rows in torch.arange(len(target_N)).split(8192):
            hidden_ND = torch.einsum("k,nkd->nd", weights_K(), streams_NKD[rows])
            nll_N = head.nll(hidden_ND[None].to(head.table), target_N[None, rows].to(head.table.device))
            loss = nll_N.sum() / len(target_N)
            loss.backward()
            total += float(loss.detach())
        return total

    optimizer.step(closure)
    return tuple(weights_K().detach().tolist())
