"""Plain multi-head attention with the face of `LatentAttention`: what the latents are compared with.

B batch, T tokens, D model width
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from nano_think.nn.attention import Attend, Attention
from nano_think.nn.cache import AttendCached, KeyValues, Rows, Slot, Span
from nano_think.nn.rope import Rope, between


class PlainAttention(nn.Module):
    """Causal self-attention with RoPE on every channel and query/key norm: (B, T, D) -> (B, T, D).

    `Attention` with its own positions. A cache needs 2 D numbers per token.
    """

    def __init__(self, width: int, n_heads: int):
        super().__init__()
        self.attention = Attention(width, n_heads)
        self.rope = Rope(width // n_heads)

    def forward(self, u_BTD: Tensor, attend: Attend) -> Tensor:
        return self.attention(u_BTD, self.rope(torch.arange(u_BTD.shape[1], device=u_BTD.device)), attend)

    def start(self, capacity: int) -> "HeadCache":
        rope = self.rope(torch.arange(capacity, device=self.rope.frequency.device))
        return HeadCache(rope, KeyValues(capacity))

    def extend(self, u_BTD: Tensor, span: Span, cache: "HeadCache") -> Tensor:
        """The same for new tokens behind a cache, (B, T, D)."""
        return self.attention(u_BTD, between(cache.rope, span.first, span.end), AttendCached(cache.rows, span))

    def advance(self, x_RD: Tensor, norm: nn.RMSNorm, rows: Rows, cache: "HeadCache") -> Tensor:
        """x + this of norm(x), (R, D), for one new token of each of R rows behind a cache."""
        return self.attention.advance(x_RD, norm, cache.rope, rows, cache.rows)


class HeadCache(NamedTuple):
    """Rotations of all positions, and the keys and values of all heads."""

    rope: tuple[Tensor, Tensor]
    rows: KeyValues

    def join(self, one: "HeadCache", slot: Slot) -> None:
        """Keep in a slot what a cache of one row has read."""
        self.rows.join(one.rows, slot)
