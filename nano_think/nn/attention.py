"""Multi-head self-attention.

B batch, T tokens, D model width, N heads, H head width (D = N * H)
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from nano_think.nn.linear import linear
from nano_think.nn.rope import rotate

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def attend_where(mask_BNTS: Tensor) -> Attend:
    """softmax(q k^T / sqrt(H)) v over the keys where the mask is true: the rule of who sees whom, as a function."""

    def attend(q_BNTH: Tensor, k_BNSH: Tensor, v_BNSH: Tensor) -> Tensor:
        bias = torch.zeros_like(mask_BNTS, dtype=v_BNSH.dtype).masked_fill_(~mask_BNTS, float("-inf"))
        return scaled_dot_product_attention(q_BNTH, k_BNSH, v_BNSH, attn_mask=bias)

    return attend


class Attention(nn.Module):
    """Multi-head attention with RoPE and query/key norm: (B, T, D) -> (B, T, D).

    softmax(q k^T / sqrt(H)) v (Vaswani et al. 2017, eq. 1) with q and k RMS-normalised per head (Henry et al. 2020), so
    that no score grows without bound. `attend` decides who sees whom.
    """

    def __init__(self, width: int, n_heads: int):
        super().__init__()
        assert width % n_heads == 0, f"width {width} is no multiple of {n_heads} heads"
        self.n_heads = n_heads
        head = width // n_heads
        self.qkv = linear(width, 3 * width)
        self.norm_q, self.norm_k = nn.RMSNorm(head), nn.RMSNorm(head)
        self.out = linear(width, width, zero=True)

    def forward(self, x_BTD: Tensor, rope: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        q, k, v = self.qkv(x_BTD).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = rotate(self.norm_q(q.float()), rope), rotate(self.norm_k(k.float()), rope)
        o_BNTH = attend(q.to(v.dtype), k.to(v.dtype), v)
        return self.out(o_BNTH.transpose(1, 2).flatten(2))


def attend_plainly(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """The plain twin of the fused kernel: every score is written out. (B, N, T, H) each -> (B, N, T, H)."""
    score = (q @ k.transpose(-1, -2)) / q.shape[-1] ** 0.5
    return torch.softmax(score.masked_fill(~mask, float("-inf")), dim=-1) @ v
