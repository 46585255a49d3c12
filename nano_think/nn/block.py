"""The one transformer block: the transformer expert, the denoiser and the chat backbone are stacks of it.

B batch, T tokens, D model width, R rows of a step
"""

from torch import Tensor, nn

from nano_think.nn.attention import Attend, Attention
from nano_think.nn.cache import KeyValues, Rows
from nano_think.nn.mlp import SwiGLU
from nano_think.nn.norm import RMSNorm
from nano_think.nn.rows import linear_rows


class Block(nn.Module):
    """Attention, then SwiGLU, each x + f(RMSNorm(x)): (B, T, D) -> (B, T, D).

    `scale`, where given, is a pair of (B, T, D) that multiplies the two normalised inputs by (1 + scale): the scale
    half of adaLN (Peebles and Xie 2023), through which the denoiser learns its noise level.
    """

    def __init__(self, width: int, n_heads: int, inner: int, dropout: float = 0.0):
        super().__init__()
        self.norm_attention, self.norm_mlp = RMSNorm(width), RMSNorm(width)
        self.attention = Attention(width, n_heads)
        self.mlp = SwiGLU(width, inner)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x_BTD: Tensor, rope: tuple[Tensor, Tensor], attend: Attend, scale: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        a_BTD = self.norm_attention(x_BTD, for_product=True)
        a_BTD = a_BTD if scale is None else a_BTD * (1 + scale[0])
        x_BTD = x_BTD + self.dropout(self.attention(a_BTD, rope, attend))
        m_BTD = self.norm_mlp(x_BTD, for_product=True)
        m_BTD = m_BTD if scale is None else m_BTD * (1 + scale[1])
        return x_BTD + self.dropout(self.mlp(m_BTD))

    def advance(
        self,
        x_RD: Tensor,
        rope: tuple[Tensor, Tensor],
        rows: Rows,
        kept: KeyValues,
        scale: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """The same for one new token of each of R rows, (R, D); `scale` is a pair of (S, D) for S shares of them."""
        to_attention, to_mlp = scale or (None, None)
        x_RD = self.attention.advance(x_RD, self.norm_attention, rope, rows, kept, to_attention)
        inner_RF = linear_rows(x_RD, self.mlp.gate_up.weight, self.norm_mlp, to_mlp, gate=True)
        return linear_rows(inner_RF, self.mlp.down.weight, add_RO=x_RD)
