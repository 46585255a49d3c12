"""The language head, tied to the token table: the gauge that all experts share.

B batch, T tokens, D model width, V vocabulary
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy


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

    @torch.no_grad()
    def expect(self, hidden_BTD: Tensor) -> Tensor:
        """sum_v p(v) e_v, (B, T, D): the mean embedding under the distribution that a hidden state speaks for.

        A block of rows at a time, as in `nll`, and without gradient.
        """
        rows = max(16, 2**20 // len(self.table))
        parts = [self.logits(h).softmax(dim=-1) @ self.table for h in hidden_BTD.flatten(0, 1).split(rows)]
        return torch.cat(parts).view_as(hidden_BTD)

    def nll(self, hidden_BTD: Tensor, targets_BT: Tensor) -> Tensor:
        """Negative log-likelihood of each target in nats, (B, T), without ever holding (B, T, V) numbers."""
        with torch.autocast(hidden_BTD.device.type, enabled=False):
            hidden = hidden_BTD.flatten(0, 1).float() * self.width**-0.5
            return _TiedCrossEntropy.apply(hidden, self.table, self.bias, targets_BT.flatten()).view_as(targets_BT)

    def nll_plainly(self, hidden_BTD: Tensor, targets_BT: Tensor) -> Tensor:
        """The plain twin of `nll`: all logits at once."""
        return cross_entropy(self.logits(hidden_BTD).movedim(-1, 1), targets_BT, reduction="none")


def normalise_table(table_VD: Tensor) -> Tensor:
    """Centre the rows and give each the length sqrt(D), so that every coordinate has about unit variance."""
    centred = table_VD - table_VD.mean(dim=0)
    return centred * (table_VD.shape[1] ** 0.5 / centred.norm(dim=1, keepdim=True).clamp_min(1e-6))


class _TiedCrossEntropy(torch.autograd.Function):
    """-log softmax(h E^T + b)[target] per row, and its gradients, a block of rows at a time.

    The gradient of h is made in the forward pass, while the block's probabilities are at hand. That of E, needed only
    where E is being trained, is made from recomputed probabilities. S rows, D width, V words.
    """

    @staticmethod
    def forward(ctx, hidden_SD: Tensor, table_VD: Tensor, bias_V: Tensor, target_S: Tensor) -> Tensor:
        nll, norm, grad = [], [], []
        for h, target in _blocks(hidden_SD, target_S, len(table_VD)):
            logits = torch.addmm(bias_V, h, table_VD.T)
            wanted = logits.gather(1, target[:, None])
            top = logits.amax(dim=1, keepdim=True)
            # One pass of exp, in place: this block of numbers is where the time goes.
            weight = logits.sub_(top).exp_()
            total = weight.sum(dim=1, keepdim=True)
            norm.append((total.log() + top)[:, 0])
            nll.append(norm[-1] - wanted[:, 0])
            if ctx.needs_input_grad[0]:
                grad.append(weight @ table_VD / total - table_VD[target])
        ctx.save_for_backward(hidden_SD, table_VD, bias_V, target_S, torch.cat(norm), torch.cat(grad) if grad else None)
        return torch.cat(nll)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_S: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        hidden_SD, table_VD, bias_V, target_S, norm_S, grad_SD = ctx.saved_tensors
        grad_table = None
        if ctx.needs_input_grad[1]:
            grad_table = torch.zeros_like(table_VD)
            for h, target, norm, g in _blocks(hidden_SD, target_S, len(table_VD), norm_S, grad_S):
                error = _error_in_place(torch.addmm(bias_V, h, table_VD.T), norm, target)
                grad_table.addmm_(error.T, h * g[:, None])
        return None if grad_SD is None else grad_SD * grad_S[:, None], grad_table, None, None


def _blocks(hidden_SD: Tensor, target_S: Tensor, vocabulary: int, *more: Tensor):
    """Rows in blocks whose logits are about a million numbers, small enough to stay in a CPU's cache."""
    rows = max(16, 2**20 // vocabulary)
    return zip(*(part.split(rows) for part in (hidden_SD, target_S, *more)), strict=True)


def _error_in_place(logits: Tensor, norm: Tensor, target: Tensor) -> Tensor:
    """softmax - one-hot, written over the logits."""
    error = logits.sub_(norm[:, None]).exp_()
    error[torch.arange(len(target), device=target.device), target] -= 1
    return error
