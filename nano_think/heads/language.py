"""The language head, tied to the token table: the gauge that all experts share.

B batch, T tokens, D model width, V vocabulary, R rows of a step
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy

from nano_think.nn.native import have_kernel, ops
from nano_think.nn.rows import linear_rows

# Numbers of a block of logits, which stay in a CPU's cache, and of a group, which one product makes and one uses up.
BLOCK, GROUP = 2**20, 2**23


class LanguageHead(nn.Module):
    """Frozen token table E, (V, D) with rows of length sqrt(D), and log-unigram bias b, (V).

    logits(h) = E h / sqrt(D) + b. Whatever speaks through it speaks one language: a weighted sum of hiddens is a
    product of the experts' distributions, because the head is linear and the same for all.
    """

    table: Tensor
    bias: Tensor

    def __init__(self, table_VD: Tensor, bias_V: Tensor):
        super().__init__()
        assert table_VD.shape[:1] == bias_V.shape, f"{table_VD.shape[0]} rows but {bias_V.shape[0]} biases"
        self.register_buffer("table", table_VD)
        self.register_buffer("bias", bias_V)

    @property
    def width(self) -> int:
        return self.table.shape[1]

    def embed(self, tokens: Tensor) -> Tensor:
        """Token ids of any shape -> their rows of E, (..., D)."""
        return self.table[tokens]

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V), in fp32: the denoiser's skip term reaches the hundreds."""
        with torch.autocast(hidden.device.type, enabled=False):
            return hidden.float() * self.width**-0.5 @ self.table.T + self.bias

    def logits_of_rows(self, hidden_RD: Tensor) -> Tensor:
        """`logits` of the few rows of a step, (R, V), whose bits do not depend on each other; without gradient."""
        return linear_rows(hidden_RD.float() * self.width**-0.5, self.table) + self.bias

    @torch.no_grad()
    def expect(self, hidden: Tensor) -> Tensor:
        """sum_v p(v) e_v, (..., D): the mean embedding under the distribution that a hidden state speaks for.

        A block of rows at a time, as in `nll`, and without gradient.
        """
        rows = max(16, 2**20 // len(self.table))
        parts = [self.logits(h).softmax(dim=-1) @ self.table for h in hidden.flatten(0, -2).split(rows)]
        return torch.cat(parts).view_as(hidden)

    def nll(self, hidden_BTD: Tensor, targets_BT: Tensor) -> Tensor:
        """Negative log-likelihood of each target in nats, (B, T), without ever holding (B, T, V) numbers.

        Products are in the precision of the hidden states and all else in fp32. Its gradient reaches the hidden states
        alone: a table that learns needs `mean_nll`.
        """
        return self._cross_entropy(hidden_BTD, targets_BT, None).view_as(targets_BT)

    def mean_nll(self, hidden_BTD: Tensor, targets_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """The mean of `nll` where the mask is true, 0 where it never is; its gradient reaches the table too.

        A mean knows the weight of every row beforehand, so that all gradients are made while the probabilities are at
        hand.
        """
        return self._cross_entropy(hidden_BTD, targets_BT, (mask_BT / mask_BT.sum().clamp_min(1)).flatten())

    def nll_plainly(self, hidden_BTD: Tensor, targets_BT: Tensor) -> Tensor:
        """The plain twin of `nll`: all logits at once."""
        return cross_entropy(self.logits(hidden_BTD).movedim(-1, 1), targets_BT, reduction="none")

    def _cross_entropy(self, hidden_BTD: Tensor, targets_BT: Tensor, weight_S: Tensor | None) -> Tensor:
        # Inside a Function nothing tells that no gradient is wanted.
        table_VD = self.table if torch.is_grad_enabled() else self.table.detach()
        with torch.autocast(hidden_BTD.device.type, enabled=False):
            hidden_SD, target_S = hidden_BTD.flatten(0, -2), targets_BT.flatten()
            return _TiedCrossEntropy.apply(hidden_SD, table_VD, self.bias, target_S, weight_S)


def normalise_table(table_VD: Tensor) -> Tensor:
    """Centre the rows and give each the length sqrt(D), so that every coordinate has about unit variance."""
    centred = table_VD - table_VD.mean(dim=0)
    return centred * (table_VD.shape[1] ** 0.5 / centred.norm(dim=1, keepdim=True).clamp_min(1e-6))


class _TiedCrossEntropy(torch.autograd.Function):
    """-log softmax(h E^T / sqrt(D) + b)[target] of each row, (S); or, given weights (S), their weighted sum, ().

    Both gradients are made in the forward pass, a block of rows at a time. S rows, D width, V words.
    """

    @staticmethod
    def forward(
        ctx, hidden_SD: Tensor, table_VD: Tensor, bias_V: Tensor, target_S: Tensor, weight_S: Tensor | None
    ) -> Tensor:
        learns_hidden, learns_table = ctx.needs_input_grad[:2]
        assert weight_S is not None or not learns_table, "a table that learns needs mean_nll"
        # Scaling the table, and not the states, rounds once; a product of half-precision numbers is exact.
        scale = table_VD.shape[1] ** -0.5
        scaled_VD = (table_VD * scale).to(hidden_SD.dtype)
        nll_S = bias_V.new_empty(len(target_S))
        grad_SD = torch.empty_like(hidden_SD) if learns_hidden else None
        grad_VD: Tensor | None = None
        groups = _slices(len(target_S), GROUP // len(table_VD))
        room_SV = hidden_SD.new_empty(groups[0].stop if groups else 0, len(table_VD))
        for rows in groups:
            # The logits of a group become its errors in their place.
            error_SV = torch.mm(hidden_SD[rows], scaled_VD.T, out=room_SV[: len(nll_S[rows])])
            nll_S[rows] = cross_entropy_(error_SV, bias_V, target_S[rows], learns_hidden or learns_table)
            if grad_SD is not None:
                torch.mm(error_SV, scaled_VD, out=grad_SD[rows])
            if learns_table and weight_S is not None:
                part_VD = error_SV.T @ (hidden_SD[rows] * (scale * weight_S[rows, None])).to(error_SV.dtype)
                grad_VD = part_VD.to(table_VD.dtype) if grad_VD is None else grad_VD.add_(part_VD)
        if grad_SD is not None and weight_S is not None:
            grad_SD *= weight_S[:, None]
        if learns_table and grad_VD is None:
            grad_VD = torch.zeros_like(table_VD)
        ctx.save_for_backward(grad_SD, grad_VD)
        return nll_S if weight_S is None else nll_S @ weight_S

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_SD, grad_VD = ctx.saved_tensors
        grad_hidden = None if grad_SD is None else grad_SD * grad[..., None].to(grad_SD.dtype)
        return grad_hidden, None if grad_VD is None else grad_VD * grad, None, None, None


def cross_entropy_(logits_SV: Tensor, bias_V: Tensor, target_S: Tensor, errors: bool) -> Tensor:
    """-log softmax(logits + b)[target] of each row, (S), in fp32; with `errors` the logits become softmax - one-hot."""
    if have_kernel(logits_SV) and bias_V.dtype == torch.float32:
        return ops.cross_entropy_(logits_SV, bias_V, target_S, errors)
    return cross_entropy_plainly_(logits_SV, bias_V, target_S, errors)


def cross_entropy_plainly_(logits_SV: Tensor, bias_V: Tensor, target_S: Tensor, errors: bool) -> Tensor:
    """The kernel's twin, a block of rows at a time."""
    nll_S = bias_V.new_empty(len(target_S))
    for rows in _slices(len(target_S), BLOCK // len(bias_V)):
        logits, place = torch.add(logits_SV[rows], bias_V), target_S[rows, None]
        top, wanted = logits.amax(dim=1), logits.gather(1, place)[:, 0]
        probability = torch.softmax(logits, dim=1)
        # The largest probability is 1 / sum(exp(logits - top)).
        nll_S[rows] = top - probability.amax(dim=1).log() - wanted
        if errors:
            logits_SV[rows] = probability.scatter_add_(1, place, probability.new_full(place.shape, -1.0))
    return nll_S


def _slices(length: int, size: int) -> list[slice]:
    size = max(1, size)
    return [slice(first, min(first + size, length)) for first in range(0, length, size)]
