"""Multi-head latent attention (DeepSeek-AI 2024, DeepSeek-V2, section 2.1).

B batch, T tokens, D model width, N heads, H head width, R rotated width (of a step: rows), K latent width
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from nano_think.nn.attention import Attend
from nano_think.nn.cache import Rows, Slot, Span
from nano_think.nn.linear import linear
from nano_think.nn.norm import RMSNorm
from nano_think.nn.rope import Rope, between, rotate
from nano_think.nn.rows import attend_rows, linear_rows


class LatentAttention(nn.Module):
    """Causal self-attention whose keys and values are read off one small latent per token: (B, T, D) -> (B, T, D).

    c_t = RMSNorm(W_dkv u_t), k = [W_uk c ; RoPE(W_kr u)], v = W_uv c, q = [W_q u ; RoPE(W_qr u)], scores over
    sqrt(H + R) (DeepSeek-V2, eq. 9-19; position travels in R extra channels that all heads share). A cache needs K + R
    numbers per token instead of 2 N H.
    """

    def __init__(self, width: int, n_heads: int, latent: int, rotated: int):
        super().__init__()
        assert width % n_heads == 0, f"n_heads: wanted a divisor of the width {width}, got {n_heads}"
        self.n_heads, self.head, self.latent, self.rotated = n_heads, width // n_heads, latent, rotated
        self.query = linear(width, n_heads * (self.head + rotated))
        self.down = linear(width, latent + rotated)
        self.norm = RMSNorm(latent)
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

    def start(self, capacity: int) -> "LatentCache":
        return LatentCache(capacity, self.rope(torch.arange(capacity, device=self.rope.frequency.device)))

    def extend(self, u_BTD: Tensor, span: Span, cache: "LatentCache") -> Tensor:
        """The same for new tokens behind a cache, without ever making a key or a value, (B, T, D).

        W_uk moves to the query and W_uv behind the sum ("absorbed", DeepSeek-V2, section 2.1.2): q^C (W_uk c) =
        (W_uk^T q^C) c and sum_s a_s W_uv c_s = W_uv sum_s a_s c_s. All heads then read one row [c ; RoPE(k^R)] per
        token, as the queries of a single head would.
        """
        rope = between(cache.rope, span.first, span.end)
        q = self.query(u_BTD).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
        q_content, q_position = q.split([self.head, self.rotated], dim=-1)
        latent, k_position = self.down(u_BTD).split([self.latent, self.rotated], dim=-1)
        row_BTK = torch.cat([self.norm(latent.float()).to(u_BTD.dtype), rotate(k_position, rope)], dim=-1)
        up_k_NHK, up_v_NHK = self.up.weight.view(self.n_heads, 2, self.head, self.latent).unbind(1)
        q = torch.cat([q_content @ up_k_NHK, rotate(q_position, rope)], dim=-1)
        a_BNTK = cache.attend(q, row_BTK, span, (self.head + self.rotated) ** -0.5)[..., : self.latent]
        return self.out((a_BNTK @ up_v_NHK.transpose(1, 2)).transpose(1, 2).flatten(2))

    def advance(self, x_RD: Tensor, norm: nn.RMSNorm, rows: Rows, cache: "LatentCache") -> Tensor:
        """x + this of norm(x), absorbed, (R, D), for one new token of each of R rows behind a cache."""
        cache.absorbed = cache.absorbed or self.absorb()
        inward_OD, outward_DV = cache.absorbed
        rows_RMK = linear_rows(x_RD, inward_OD, norm).unflatten(-1, (self.n_heads + 1, -1))
        content, position = rows_RMK.split([self.latent, self.rotated], dim=-1)
        position = rotate(position, (cache.rope[0][rows.place_R, None], cache.rope[1][rows.place_R, None]))
        cache.place(torch.cat([self.norm(content[:, -1]), position[:, -1]], dim=-1), rows)
        q_RNK, shared = torch.cat([content, position], dim=-1)[:, :-1].contiguous(), cache.shared(self.n_heads)
        o_RNK = attend_rows(q_RNK, shared, shared[..., : self.latent], rows, (self.head + self.rotated) ** -0.5)
        return linear_rows(o_RNK.flatten(1), outward_DV, add_RO=x_RD)

    def absorb(self) -> tuple[Tensor, Tensor]:
        """What a step multiplies by: one map in, from u to the rows [W_uk^T q^C; q^R] of all heads and behind them
        [c; k^R], and one out, from all heads' sums of c, W_o W_uv.
        """
        up_k_NHK, up_v_NHK = self.up.weight.view(self.n_heads, 2, self.head, self.latent).unbind(1)
        content, position = self.query.weight.view(self.n_heads, -1, self.query.in_features).split(
            [self.head, self.rotated], dim=1
        )
        query_NKD = torch.cat([up_k_NHK.transpose(1, 2) @ content, position], dim=1)
        out_DNH = self.out.weight.view(-1, self.n_heads, self.head)
        outward_DNK = (out_DNH.transpose(0, 1) @ up_v_NHK).transpose(0, 1)
        return torch.cat([query_NKD.flatten(0, 1), self.down.weight]), outward_DNK.flatten(1)


class LatentCache:
    """One row of K + R numbers per token: the normalised latent and the rotated key that all heads share."""

    def __init__(self, capacity: int, rope: tuple[Tensor, Tensor]):
        self.capacity, self.rope = capacity, rope
        self.rows: Tensor | None = None
        self.absorbed: tuple[Tensor, Tensor] | None = None

    def attend(self, q_BNTK: Tensor, row_BTK: Tensor, span: Span, scale: float) -> Tensor:
        """Keep the new rows; sum of all visible rows, weighted by softmax(scale * q row), (B, N, T, K)."""
        if self.rows is None:
            self.rows = row_BTK.new_empty(len(row_BTK), self.capacity, row_BTK.shape[-1])
        self.rows[:, span.first : span.end] = row_BTK
        rows_B1SK, bias_BNTS = self.rows[:, None, : span.end], span.bias_BNTS.to(q_BNTK.dtype)
        # Heads become queries: the rows are then read once for all of them, and never copied per head.
        q_B1QK, N = q_BNTK.flatten(1, 2)[:, None], q_BNTK.shape[1]
        bias_B1QS = bias_BNTS.expand(-1, N, -1, -1).flatten(1, 2)[:, None] if q_BNTK.shape[2] > 1 else bias_BNTS
        o_B1QK = scaled_dot_product_attention(q_B1QK, rows_B1SK, rows_B1SK, attn_mask=bias_B1QS, scale=scale)
        return o_B1QK[:, 0].unflatten(1, (N, -1))

    def join(self, one: "LatentCache", slot: Slot) -> None:
        """Keep in a slot what a cache of one row has read."""
        assert one.rows is not None, "nothing has been read"
        self.rows = slot.room_like(one.rows, 1, self.capacity) if self.rows is None else self.rows
        self.rows[slot.number, : slot.length] = one.rows[0, : slot.length]

    def place(self, row_RK: Tensor, rows: Rows) -> None:
        """Keep one new row of each of R slots."""
        assert self.rows is not None, "no text has joined"
        self.rows[rows.slot_R, rows.place_R] = row_RK.to(self.rows.dtype)

    def shared(self, n_heads: int) -> Tensor:
        """The rows of all slots, (slots, N, S, K): the same for all heads."""
        assert self.rows is not None, "no text has joined"
        return self.rows[:, None].expand(-1, n_heads, -1, -1)
