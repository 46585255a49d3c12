"""One distribution out of K: the sum of experts, p = sum_k w_k softmax(logits(h_k)).

The other way, a weighted sum of hiddens, is `nn.blend`: it needs one pass through the head, this one K. But frozen
experts say the same of a token in every epoch, so that a router can be trained on K numbers per token.

B batch, T tokens, D model width, K experts, V vocabulary
"""

import torch
from torch import Tensor

from nano_think.heads.language import LanguageHead


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
