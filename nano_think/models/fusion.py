"""One distribution out of K: the sum of experts, p = sum_k w_k softmax(logits(h_k)).

The other way, a weighted sum of hiddens, is `nn.blend`: it needs one pass through the head, this one K. But frozen
experts say the same of a token in every epoch, so that a router can be trained on K numbers per token; and a sum of
hiddens, since the head is linear, on their logits without the head.

B batch, T tokens, S rows, D model width, K experts, V vocabulary
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nano_think.heads.language import LanguageHead
from nano_think.nn.native import have_kernel, ops

# Numbers of a block of logits.
BLOCK = 2**20


@torch.no_grad()
def nll_of_each(head: LanguageHead, streams_BTKD: Tensor, targets_BT: Tensor) -> Tensor:
    """-log p_k(target) in nats, (B, T, K), in fp32 and without gradient: the experts are frozen."""
    return torch.stack([head.nll(h_BTD, targets_BT).float() for h_BTD in streams_BTKD.unbind(2)], dim=2)


def mixed_nll(weights_BTK: Tensor, nll_BTK: Tensor) -> Tensor:
    """-log sum_k w_k p_k, (B, T); its gradient reaches the weights.

    The smallest of the losses that count goes before the logarithm, so that no sum is rounded to 0. An expert of weight
    0 has no say in that either, and no log of its weight is taken, whose slope would be infinite.
    """
    nll_BTK = nll_BTK.masked_fill(weights_BTK == 0, float("inf"))
    least_BT1 = nll_BTK.amin(dim=-1, keepdim=True)
    sum_BT = (weights_BTK * (least_BT1 - nll_BTK).exp()).sum(dim=-1)
    return least_BT1[..., 0] - sum_BT.log()


def mixed_logits(head: LanguageHead, weights_BTK: Tensor, streams_BTKD: Tensor) -> Tensor:
    """log sum_k w_k p_k of every word, (B, T, V), in fp32."""
    log_weights_BTK1 = weights_BTK.log()[..., None]
    parts = zip(log_weights_BTK1.unbind(2), streams_BTKD.unbind(2), strict=True)
    log_p = [log_weight + head.logits(h_BTD).log_softmax(dim=-1) for log_weight, h_BTD in parts]
    return torch.stack(log_p).logsumexp(dim=0)


@torch.no_grad()
def logits_of_each(head: LanguageHead, streams_BTKD: Tensor) -> Tensor:
    """E h_k / sqrt(D), the logits of each expert without the bias, (B, T, K, V), in the precision of its states."""
    with torch.autocast(streams_BTKD.device.type, enabled=False):
        return streams_BTKD @ (head.table.T * head.width**-0.5).to(streams_BTKD.dtype)


def blended_nll(head: LanguageHead, share_BTK: Tensor, logits_BTKV: Tensor, targets_BT: Tensor) -> Tensor:
    """Negative log-likelihood of each target under sum_k u_k h_k, (B, T), from the `logits_of_each` of the h_k.

    Its gradient reaches the shares u_k, and all it takes are sums over the words: no product with the table is left,
    neither forward nor backward.
    """
    rows = logits_BTKV.flatten(0, 1), share_BTK.flatten(0, 1).float(), targets_BT.flatten()
    return _BlendedCrossEntropy.apply(rows[1], rows[0], head.bias, rows[2]).view_as(targets_BT)


class _BlendedCrossEntropy(torch.autograd.Function):
    """-log softmax(sum_k u_k L_k + b)[target] of each row, (S)."""

    @staticmethod
    def forward(ctx, share_SK: Tensor, logits_SKV: Tensor, bias_V: Tensor, target_S: Tensor) -> Tensor:
        nll_S, slope_SK = blend_cross_entropy(logits_SKV, share_SK, bias_V, target_S)
        ctx.save_for_backward(slope_SK)
        return nll_S

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_S: Tensor) -> tuple[Tensor | None, ...]:
        return grad_S[:, None] * ctx.saved_tensors[0], None, None, None


def blend_cross_entropy(
    logits_SKV: Tensor, share_SK: Tensor, bias_V: Tensor, target_S: Tensor
) -> tuple[Tensor, Tensor]:
    """The loss of each row, (S), and its slope in the shares, E_p[L_k] - L_k[target], (S, K), in fp32."""
    if have_kernel(logits_SKV) and bias_V.dtype == torch.float32:
        return ops.blend_cross_entropy(logits_SKV, share_SK, bias_V, target_S)
    return blend_cross_entropy_plainly(logits_SKV, share_SK, bias_V, target_S)


def blend_cross_entropy_plainly(
    logits_SKV: Tensor, share_SK: Tensor, bias_V: Tensor, target_S: Tensor
) -> tuple[Tensor, Tensor]:
    """The kernel's twin, a block of rows at a time."""
    nll, slope = [bias_V.new_empty(0)], [share_SK.new_empty(0, share_SK.shape[1])]
    for rows in torch.arange(len(target_S)).split(max(1, BLOCK // logits_SKV[:1].numel())):
        each_SKV, place_S1 = logits_SKV[rows].to(bias_V.dtype), target_S[rows, None]
        log_p_SV = ((share_SK[rows, None] @ each_SKV)[:, 0] + bias_V).log_softmax(dim=1)
        nll.append(-log_p_SV.gather(1, place_S1)[:, 0])
        wanted_SK = each_SKV.gather(2, place_S1[:, None].expand(-1, each_SKV.shape[1], 1))[..., 0]
        slope.append((each_SKV @ log_p_SV.exp()[..., None])[..., 0] - wanted_SK)
    return torch.cat(nll), torch.cat(slope)
