"""Multi-head latent attention (DeepSeek-AI 2024, DeepSeek-V2, section 2.1).

B batch, T tokens, D model width, N heads, H head width, R rotated width, K latent width
"""

import torch
from torch import Tensor, nn

from nano_think.nn.attention import Attend
from nano_think.nn.linear import linear
from nano_think.nn.rope import Rope, rotate


class LatentAttention(nn.Module):
    """Causal self-attention whose keys and values are read off one small latent per token: (B, T, D) -> (B, T, D).

    c_t = RMSNorm(W_dkv u_t), k = [W_uk c ; RoPE(W_kr u)], v = W_uv c, q = [W_q u ; RoPE(W_qr u)], scores over
    sqrt(H + R) (DeepSeek-V2, eq. 9-19; position travels in R extra channels that all heads share). A cache needs K + R
    numbers per token instead of 2 N H.
    """

    def __init__(self, width: int, n_heads: int, latent: int, rotated: int):
        super().__init__()
        assert width % n_heads == 0, f"width {width} is no multiple of {n_heads} heads"
        self.n_heads, self.head, self.latent, self.rotated = n_heads, width // n_heads, latent, rotated
        self.query = linear(width, n_heads * (self.head + rotated))
        self.down = linear(width, latent + rotated)
        self.norm = nn.RMSNorm(latent)
        self.up = linear(latent, n_heads * 2 * self.head)
        self.out = linear(n_heads * self.head, width)
        self.rope = Rope(rotated)

    def forward(self, u_BTD: Tensor, attend: Attend) -> Tensor:
        rope = self.rope(torch.arange(u_BTD.shape[1], device=u_BTD.device))
        q = self.query(u_BTD).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
        q_content, q_position = q.split([self.head, self.rotated], dim=-1)
        latent, k_position = self.down(u_BTD).split([self.latent, self.rotated], dim=-1)
        k_content, v = (
            self.up(self.norm(latent.float())).unflatten(-1, (self.n_heads, -1)).transpose(1, 2).chunk(2, dim=-1)
        )
        k_position = rotate(k_position[:, None], rope).expand(-1, self.n_heads, -1, -1)
        q = torch.cat([q_content, rotate(q_position, rope)], dim=-1)
        k = torch.cat([k_content, k_position], dim=-1)
        o_BNTH = attend(q, k, v)
        return self.out(o_BNTH.transpose(1, 2).flatten(2))
