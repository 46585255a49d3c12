"""One distribution out of K: the sum of experts, p = sum_k w_k softmax(logits(h_k)).

The other way, a weighted sum of hiddens, is `nn.blend`: it needs one pass through the head, this one K. But frozen
experts say the same of a token in every epoch, so that a router can be trained on K numbers per token; and a sum of
hiddens, since the head is linear, on their logits without the head.

B batch, T tokens, S rows, D model width, K experts, V vocabulary
"""

from collections.abc import Iterable

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
    """E h_k / sqrt(D), the logits of each expert without the bias, (B, T, K, V).

    Of bf16 states they are fp16 numbers, eight times as fine as bf16 ones: the factors are rounded as the head rounds
    them, and products and sums are exact to fp32 before the logits are.
    """
    half = streams_BTKD.dtype == torch.bfloat16
    scaled_DV = (head.table.T * head.width**-0.5).to(streams_BTKD.dtype).float()
    size = *streams_BTKD.shape[:-1], len(head.table)
    logits_BTKV = streams_BTKD.new_empty(size, dtype=torch.float16 if half else torch.float32)
    with torch.autocast(streams_BTKD.device.type, enabled=False):
        for to_TKV, streams_TKD in zip(logits_BTKV, streams_BTKD, strict=True):
            to_TKV.copy_(streams_TKD.float() @ scaled_DV)
    return logits_BTKV


def blended_nll(head: LanguageHead, share_BTK: Tensor, logits: Iterable[Tensor], targets_BT: Tensor) -> Tensor:
    """Negative log-likelihood of each target under sum_k u_k h_k, (B, T), from the `logits_of_each` of the h_k, one
    tensor for each window, (T, K, V).

    Its gradient reaches the shares u_k, and all it takes are sums over the words: no product with the table is left,
    neither forward nor backward.
    """
    return _BlendedCrossEntropy.apply(share_BTK.float(), head.bias, targets_BT, *logits)


class _BlendedCrossEntropy(torch.autograd.Function):
    """-log softmax(sum_k u_k L_k + b)[target] of each position, (B, T)."""

    @staticmethod
    def forward(ctx, share_BTK: Tensor, bias_V: Tensor, targets_BT: Tensor, *logits: Tensor) -> Tensor:
        windows = zip(logits, share_BTK, targets_BT, strict=True)
        found = [blend_cross_entropy(logits_TKV, share, bias_V, target) for logits_TKV, share, target in windows]
        nll_BT, slope_BTK = (torch.stack(part) for part in zip(*found, strict=True))
        ctx.save_for_backward(slope_BTK)
        return nll_BT

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_BT: Tensor) -> tuple[Tensor | None, ...]:
        windows = len(grad_BT)
        return grad_BT[..., None] * ctx.saved_tensors[0], None, None, *(None for _ in range(windows))


def blend_cross_entropy(
    logits_SKV: Tensor, share_SK: Tensor, bias_V: Tensor, target_S: Tensor
) -> tuple[Tensor, Tensor]:
    """The loss of each row, (S), and its slope in the shares, E_p[L_k] - L_k[target], (S, K), in fp32."""
    if have_kernel(bias_V) and bias_V.dtype == torch.float32:
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
