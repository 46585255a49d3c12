"""Mixtures of speakers: logits are sum_k u_k E_k h_k / sqrt(D_k) + c b, with one share for each member and one for the
unigram bias, fitted on validation text. Of one member it is the calibration that every model gets.

N tokens, K members, P = K + 1 parts, D width of a member, V vocabulary, S resamples
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nano_think.evaluation.bootstrap import interval, resampled_totals
from nano_think.evaluation.reading import Document
from nano_think.heads.language import LanguageHead
from nano_think.models.fusion import blend_cross_entropy

ROWS, STEPS, HALVINGS, ENOUGH = 1024, 30, 8, 1e-7


class Voice(NamedTuple):
    """What a member says of N tokens: its states, (N, D), through its own head."""

    head: LanguageHead
    states: Tensor


def parts_of(voices: Sequence[Voice], rows: slice) -> Tensor:
    """The logits of each member, and the bias that all share, (n, P, V)."""
    own = [states[rows] @ head.table.T * head.width**-0.5 for head, states in voices]
    return torch.stack([*own, voices[0].head.bias.expand_as(own[0])], dim=1)


@torch.no_grad()
def nats(voices: Sequence[Voice], share_P: Tensor, target_N: Tensor) -> Tensor:
    """-log p of each target, (N)."""
    found = [torch.zeros(0)]
    for rows in _blocks(len(target_N)):
        parts_NPV, nothing_V = parts_of(voices, rows), torch.zeros_like(voices[0].head.bias)
        shares_NP = share_P.float().expand(len(parts_NPV), -1)
        found.append(blend_cross_entropy(parts_NPV, shares_NP, nothing_V, target_N[rows])[0])
    return torch.cat(found)


@torch.no_grad()
def fit(voices: Sequence[Voice], target_N: Tensor) -> Tensor:
    """The shares, (P), with the least mean loss, by Newton's method from equal ones: the loss is convex in them."""
    at_P = torch.tensor([1 / len(voices)] * len(voices) + [1.0], dtype=torch.float64)
    loss, slope_P, curve_PP = _loss(voices, target_N, at_P)
    for _ in range(STEPS):
        step_P = torch.linalg.pinv(curve_PP, rtol=1e-12, hermitian=True) @ slope_P
        if slope_P @ step_P < ENOUGH:
            break
        for _ in range(HALVINGS):
            tried = _loss(voices, target_N, at_P - step_P)
            if tried[0] <= loss:
                break
            step_P = step_P / 2
        else:
            break
        at_P, (loss, slope_P, curve_PP) = at_P - step_P, tried
    return at_P


def _loss(voices: Sequence[Voice], target_N: Tensor, at_P: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The mean loss, its gradient E_p[f] - f(target) and its Hessian Cov_p[f], f(v) being the parts at v."""
    P = len(at_P)
    loss, slope_P, curve_PP = torch.zeros((), dtype=torch.float64), torch.zeros(P).double(), torch.zeros(P, P).double()
    for rows in _blocks(len(target_N)):
        parts_NPV, place_N1 = parts_of(voices, rows), target_N[rows, None]
        log_p_NV = (at_P.float() @ parts_NPV).log_softmax(dim=-1)
        weighted_NPV = log_p_NV.exp()[:, None] * parts_NPV
        mean_NP = weighted_NPV.sum(-1)
        loss -= log_p_NV.gather(1, place_N1).double().sum()
        wanted_NP = parts_NPV.gather(2, place_N1[:, None].expand(-1, P, 1))[..., 0]
        slope_P += (mean_NP - wanted_NP).double().sum(0)
        curve_PP += (weighted_NPV @ parts_NPV.mT - mean_NP[:, :, None] * mean_NP[:, None]).double().sum(0)
    return loss / len(target_N), slope_P / len(target_N), curve_PP / len(target_N)


def _blocks(length: int) -> list[slice]:
    return [slice(first, first + ROWS) for first in range(0, length, ROWS)]


def by_document(nats_N: Tensor, document_N: Tensor, documents: Sequence[Document]) -> np.ndarray:
    """Nats of each document."""
    sums = torch.zeros(len(documents), dtype=torch.float64).index_add_(0, document_N, nats_N.double())
    return sums.numpy()


class Change(NamedTuple):
    """A ratio less 1: the mean over seeds with its 95% interval over documents, and the smallest and largest seed's."""

    mean: float
    low: float
    high: float
    least: float
    most: float

    def __str__(self) -> str:
        seeds = f"; seeds {self.least:+.2%} to {self.most:+.2%}" if self.least != self.most else ""
        return f"{self.mean:+.2%} ({self.low:+.2%} to {self.high:+.2%}{seeds})"


def change(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> Change:
    """Of sums by document, one array for each seed, ours and theirs over the same documents."""
    ratios = [float(one.sum() / other.sum() - 1) for one, other in zip(ours, theirs, strict=True)]
    drawn = resampled_totals(np.stack([*ours, *theirs], axis=1))
    drawn = drawn[(drawn > 0).all(axis=1)]
    mean_S = (drawn[:, : len(ours)] / drawn[:, len(ours) :]).mean(axis=1) - 1
    return Change(float(np.mean(ratios)), *interval(mean_S), min(ratios), max(ratios))


class Look(NamedTuple):
    """A training as it is at some epoch: its FLOPs up to there, its validation loss, and its sums by test document."""

    flops: float
    validation: float
    sums: np.ndarray


def stopped_early(looks: Sequence[Look], flops: float) -> np.ndarray | None:
    """What a training comes to that has so many FLOPs and need not take them all: where its validation loss is lowest.

    looks: of one training, by rising FLOPs. It may also take all of them, and is then between the two looks around
    them: the lowest only where the loss still falls. None below the first look; beyond the last, the best of all.
    """
    within = [look for look in looks if look.flops <= flops]
    if not within:
        return None
    beyond = looks[len(within) :]
    last = [between(within[-1], beyond[0], flops)] if beyond else []
    return min([*within, *last], key=lambda look: look.validation).sums


def between(less: Look, more: Look, flops: float) -> Look:
    """On a line over log FLOPs."""
    share = math.log(flops / less.flops) / math.log(more.flops / less.flops)
    validation = (1 - share) * less.validation + share * more.validation
    return Look(flops, validation, (1 - share) * less.sums + share * more.sums)
