"""Multi-head self-attention.

B batch, T tokens (queries), S tokens (keys), N heads, H head width, D model width (D = N * H), R rows of a step
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention

from nano_think.nn.cache import KeyValues, Rows
from nano_think.nn.linear import linear
from nano_think.nn.rows import attend_rows, linear_rows, place_heads
from nano_think.nn.split_heads import split_heads

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]

# Up to here the weights of all layers are a fraction of what a step holds anyway, and keeping them is cheaper.
LONGEST_KEPT = 1024

_counting: ContextVar[list[int] | None] = ContextVar("_counting", default=None)


class Tile(NamedTuple):
    """Neighbouring queries, and the ranges of keys outside of which they see nothing."""

    queries: slice
    keys: tuple[slice, ...]


def causal_tiles(T: int, rows: int = 128) -> list[Tile]:
    """Tiles of `rows` queries, each with the keys up to its end: of T x T scores, little more than the causal half."""
    return [Tile(slice(i, min(i + rows, T)), (slice(0, min(i + rows, T)),)) for i in range(0, T, rows)]


def attend_where(mask_BNTS: Tensor, tiles: list[Tile] | None = None) -> Attend:
    """softmax(q k^T / sqrt(H)) v over the keys where the mask is true: the rule of who sees whom, as a function.

    `tiles` says which parts of the mask can be true at all; without them, all of it. On a CPU, and while windows are
    short, only the tiles are computed. Elsewhere it is torch's fused kernel, which there needs less memory and time.
    """
    (T, S), counts = mask_BNTS.shape[-2:], _counting.get()
    if computes_tiles(mask_BNTS.device, S):
        return _attend_in_tiles(mask_BNTS, tiles or [Tile(slice(0, T), (slice(0, S),))])

    def attend(q_BNTH: Tensor, k_BNSH: Tensor, v_BNSH: Tensor) -> Tensor:
        if counts is not None:
            pairs = int(mask_BNTS.expand(*q_BNTH.shape[:3], S).sum())
            passes = 3 if torch.is_grad_enabled() and q_BNTH.requires_grad else 1
            counts.append(2 * (q_BNTH.shape[-1] + v_BNSH.shape[-1]) * pairs * passes)
        bias = _as_bias(mask_BNTS, v_BNSH.dtype)
        return scaled_dot_product_attention(q_BNTH, k_BNSH, v_BNSH, attn_mask=bias)

    return attend


def computes_tiles(device: torch.device, S: int) -> bool:
    """Whether attention over S keys is computed here tile by tile, and by none of torch's kernels."""
    return device.type == "cpu" and S <= LONGEST_KEPT and _counting.get() is None


@contextmanager
def counting_attention() -> Iterator[list[int]]:
    """For the block, what each attention has to compute: 2 (H + H_v) floating-point operations for each pair that its
    mask lets through, and twice that again for a backward pass where there will be one. Torch's fused kernel does the
    work, and computes more.
    """
    token = _counting.set([])
    try:
        counts = _counting.get()
        assert counts is not None
        yield counts
    finally:
        _counting.reset(token)


def _attend_in_tiles(mask_BNTS: Tensor, tiles: list[Tile]) -> Attend:
    parts = [torch.cat([mask_BNTS[..., tile.queries, keys] for keys in tile.keys], dim=-1) for tile in tiles]
    biases: dict[torch.dtype, list[Tensor]] = {}

    def attend(q_BNTH: Tensor, k_BNSH: Tensor, v_BNSH: Tensor) -> Tensor:
        dtype = q_BNTH.dtype
        if dtype not in biases:
            biases[dtype] = [_as_bias(part, dtype) for part in parts]
        return _TiledAttention.apply(q_BNTH, k_BNSH, v_BNSH, tiles, *biases[dtype])

    return attend


def _as_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, float("-inf"))


def _pick(x_BNSH: Tensor, ranges: tuple[slice, ...]) -> Tensor:
    """The rows of these ranges, one after another."""
    parts = [x_BNSH[:, :, rows] for rows in ranges]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def _add_to(total_BNSH: Tensor, ranges: tuple[slice, ...], x: Tensor) -> None:
    """Add rows to where `_pick` took them from."""
    for rows, part in zip(ranges, x.split([rows.stop - rows.start for rows in ranges], dim=2), strict=True):
        total_BNSH[:, :, rows] += part


class _TiledAttention(torch.autograd.Function):
    """softmax(q k^T / sqrt(H) + bias) v, a tile of queries after another, with the weights kept for the gradients.

    torch's fused kernel for CPUs makes them anew in its backward pass, which takes more than twice the time of this.
    """

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, tiles: list[Tile], *biases: Tensor) -> Tensor:
        q, k, v = q * q.shape[-1] ** -0.5, k.contiguous(), v.contiguous()
        out, weights = q.new_empty(*q.shape[:-1], v.shape[-1]), []
        for tile, bias in zip(tiles, biases, strict=True):
            score = q[:, :, tile.queries] @ _pick(k, tile.keys).transpose(-1, -2)
            weights.append(torch.softmax(score.add_(bias), dim=-1))
            out[:, :, tile.queries] = weights[-1] @ _pick(v, tile.keys)
        ctx.save_for_backward(q, k, v, *weights)
        ctx.tiles = tiles
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *weights = ctx.saved_tensors
        grad = grad.contiguous()
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for tile, weight in zip(ctx.tiles, weights, strict=True):
            g = grad[:, :, tile.queries]
            _add_to(grad_v, tile.keys, weight.transpose(-1, -2) @ g)
            grad_weight = g @ _pick(v, tile.keys).transpose(-1, -2)
            grad_score = torch._softmax_backward_data(grad_weight, weight, -1, weight.dtype)
            grad_q[:, :, tile.queries] = grad_score @ _pick(k, tile.keys)
            _add_to(grad_k, tile.keys, grad_score.transpose(-1, -2) @ q[:, :, tile.queries])
        return grad_q.mul_(q.shape[-1] ** -0.5), grad_k, grad_v, None, *(None for _ in weights)


class Attention(nn.Module):
    """Multi-head attention with RoPE and query/key norm: (B, T, D) -> (B, T, D).

    softmax(q k^T / sqrt(H)) v (Vaswani et al. 2017, eq. 1) with q and k RMS-normalised per head (Henry et al. 2020), so
    that no score grows without bound. `attend` decides who sees whom.
    """

    def __init__(self, width: int, n_heads: int):
        super().__init__()
        assert width % n_heads == 0, f"n_heads: wanted a divisor of the width {width}, got {n_heads}"
        self.n_heads = n_heads
        head = width // n_heads
        self.qkv = linear(width, 3 * width)
        self.norm_q, self.norm_k = nn.RMSNorm(head), nn.RMSNorm(head)
        self.out = linear(width, width, zero=True)

    def forward(self, x_BTD: Tensor, rope: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        q, k, v = split_heads(self.qkv(x_BTD), self.n_heads, self.norm_q, self.norm_k, rope)
        o_BNTH = attend(q, k, v)
        return self.out(o_BNTH.transpose(1, 2).flatten(2))

    def advance(
        self,
        x_RD: Tensor,
        norm: nn.RMSNorm,
        rope: tuple[Tensor, Tensor],
        rows: Rows,
        kept: KeyValues,
        scale_SD: Tensor | None = None,
    ) -> Tensor:
        """x + this of (1 + scale) norm(x), (R, D), for one new token of each of R rows behind what `kept` holds."""
        qkv_RE = linear_rows(x_RD, self.qkv.weight, norm, scale_SD)
        attend = partial(self._attend_rows, rope, kept)
        # Several rows of one token stand where those of the next token will: then one token must have its turn first.
        o_RE = rows.in_turn(attend, qkv_RE) if rows.turns and rows.turns < len(x_RD) else attend(qkv_RE, rows)
        return linear_rows(o_RE, self.out.weight, add_RO=x_RD)

    def _attend_rows(self, rope: tuple[Tensor, Tensor], kept: KeyValues, qkv_RE: Tensor, rows: Rows) -> Tensor:
        q_RNH = place_heads(qkv_RE, self.norm_q, self.norm_k, rope, rows, kept)
        return attend_rows(q_RNH, *kept.all(), rows, q_RNH.shape[-1] ** -0.5).flatten(1)


def attend_plainly(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """The plain twin of the fused kernel: every score is written out. (B, N, T, H) each -> (B, N, T, H)."""
    score = (q @ k.transpose(-1, -2)) / q.shape[-1] ** 0.5
    return torch.softmax(score.masked_fill(~mask, float("-inf")), dim=-1) @ v
