"""The one transformer block: the transformer expert, the denoiser and the chat backbone are stacks of it.

B batch, T tokens, D model width
"""

from torch import Tensor, nn

from nano_think.nn.attention import Attend, Attention
from nano_think.nn.mlp import SwiGLU
from nano_think.nn.norm import RMSNorm


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
