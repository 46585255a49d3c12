"""The transformer expert: attention over everything before.

B batch, T tokens, D model width
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nano_think.experts import EXPERTS, Expert, ExpertConfig
from nano_think.nn.attention import attend_where, causal_tiles
from nano_think.nn.block import Block
from nano_think.nn.cache import AttendCached, KeyValues, Rows, Slot, Span
from nano_think.nn.documents import causal_mask
from nano_think.nn.linear import linear
from nano_think.nn.norm import RMSNorm
from nano_think.nn.rope import Rope, between
from nano_think.nn.rows import linear_rows


@dataclass(frozen=True, kw_only=True, slots=True)
class TransformerConfig(ExpertConfig):
    """A decoder of RoPE, SwiGLU, RMSNorm and query/key norm."""

    n_heads: int = 4
    """Attention heads."""
    inner: int = 384
    """Inner width of the SwiGLU (channels)."""
    rope_base: float = 10_000.0
    """Base of the rotary wavelengths; raise it for long contexts (tokens)."""

    def __post_init__(self) -> None:
        ExpertConfig.__post_init__(self)
        self.at_least(1, "n_heads", "inner", "rope_base")


@EXPERTS.register("transformer")
class Transformer(Expert):
    """A pre-norm decoder: (B, T, D) -> (B, T, D)."""

    Config = TransformerConfig

    def __init__(self, config: TransformerConfig, width: int):
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(width, config.n_heads, config.inner, config.dropout) for _ in range(config.n_layers)
        )
        self.rope = Rope(width // config.n_heads, config.rope_base)
        self.norm = RMSNorm(width)
        self.out = linear(width, width, zero=True)

    def forward(self, x_BTD: Tensor, documents_BT: Tensor) -> Tensor:
        rope = self.rope(torch.arange(x_BTD.shape[1], device=x_BTD.device))
        attend = attend_where(causal_mask(documents_BT), causal_tiles(x_BTD.shape[1]))
        for block in self.blocks:
            x_BTD = block(x_BTD, rope, attend)
        return self.out(self.norm(x_BTD))

    def start(self, batch: int, capacity: int) -> "TransformerCache":
        rope = self.rope(torch.arange(capacity, device=self.rope.frequency.device))
        return TransformerCache(rope, [KeyValues(capacity) for _ in self.blocks])

    def extend(self, x_BTD: Tensor, span: Span, cache: "TransformerCache") -> Tensor:
        rope = between(cache.rope, span.first, span.end)
        for block, layer in zip(self.blocks, cache.layers, strict=True):
            x_BTD = block(x_BTD, rope, AttendCached(layer, span))
        return self.out(self.norm(x_BTD))

    def advance(self, x_RD: Tensor, rows: Rows, cache: "TransformerCache") -> Tensor:
        for block, layer in zip(self.blocks, cache.layers, strict=True):
            x_RD = block.advance(x_RD, cache.rope, rows, layer)  # type: ignore[operator]
        return linear_rows(x_RD, self.out.weight, self.norm)


class TransformerCache(NamedTuple):
    """Rotations of all positions, and keys and values by layer."""

    rope: tuple[Tensor, Tensor]
    layers: list[KeyValues]

    def join(self, one: "TransformerCache", slot: Slot) -> None:
        for mine, other in zip(self.layers, one.layers, strict=True):
            mine.join(other, slot)

    def rewind(self, tokens: int) -> None:
        """Nobody sees what stands behind a text, and the next tokens write over it."""
