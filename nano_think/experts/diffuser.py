"""The diffuser expert: a denoiser of token embeddings that is causal by construction.

It reads a doubled sequence (Arriola et al. 2025, BD3-LMs): the clean tokens, and behind them noisy rows that stand
where the targets will be. Clean rows see clean rows up to themselves; a noisy row sees the clean rows before its block
and the noisy rows of its block. A row with no information at all (z = 0, the "query") predicts the next token exactly:
with blocks of one, that is an ordinary causal language model, and it is the mode that the mixture fuses.

B batch, T tokens, R rows (2 T), D model width, C width of the noise code
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from nano_think.experts import EXPERTS, Expert, ExpertConfig, masked_mean
from nano_think.heads.language import LanguageHead
from nano_think.nn.attention import Attend, Tile, attend_where, causal_tiles, computes_tiles
from nano_think.nn.block import Block
from nano_think.nn.cache import AttendCached, KeyValues, Rows, Slot, Span
from nano_think.nn.documents import causal_mask, document_starts, number_documents, same_document
from nano_think.nn.linear import linear
from nano_think.nn.noise import NoiseCode, NoiseLevels, add_noise, bayes_skip, noise_window
from nano_think.nn.norm import RMSNorm
from nano_think.nn.rope import Rope, between
from nano_think.nn.rows import linear_rows

MARGIN = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class DiffuserConfig(ExpertConfig):
    """A causal block diffuser in the space of token embeddings."""

    n_heads: int = 4
    """Attention heads."""
    inner: int = 384
    """Inner width of the SwiGLU (channels)."""
    rope_base: float = 10_000.0
    """Base of the rotary wavelengths (tokens)."""
    code: int = 32
    """Width of the code that tells a row its noise level (channels)."""
    blocks: tuple[int, ...] = (1, 4, 8, 16)
    """Block sizes that training draws from; the first is the next-token case (tokens)."""
    next_token_share: float = 0.75
    """Share of batches that use the first block size (0 to 1)."""
    query_share: float = 0.25
    """Share of the larger blocks that are pure queries, without any information about their tokens (0 to 1)."""
    infill_share: float = 0.1
    """Share of batches in which a stretch of text comes after what follows it, for infilling (0 to 1)."""

    def __post_init__(self) -> None:
        ExpertConfig.__post_init__(self)
        self.at_least(1, "n_heads", "inner", "rope_base")
        if self.code < 2 or self.code % 2:
            raise ValueError(f"code: wanted an even width, got {self.code}")
        if not self.blocks or min(self.blocks) < 1:
            raise ValueError(f"blocks: wanted one or more sizes of at least 1, got {list(self.blocks)}")
        for name in ("next_token_share", "query_share", "infill_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: wanted a share from 0 to 1, got {getattr(self, name)}")


class Noise(NamedTuple):
    """What the noisy half is made of; row t stands for token t + 1.

    x_BTD: what the rows read, `denoised` of z, 0 for queries. skip_BTD: the evidence of z (`bayes_skip`), for the head.
    log_snr_BT, query_BT: the level, or that there is no information; (1, 1) where all rows are alike. block_BT:
    the number of each row's block. documents_BT: the document of each row's token. longest: most rows of a block, if
    that is known.
    """

    x_BTD: Tensor
    skip_BTD: Tensor
    log_snr_BT: Tensor
    query_BT: Tensor
    block_BT: Tensor
    documents_BT: Tensor
    longest: int | None = None


class DiffuserCache(NamedTuple):
    """Rotations of all positions; keys and values of clean rows by layer, whatever block is asked next; the scales of
    clean rows and of queries by layer, (2, 2 D).
    """

    rope: tuple[Tensor, Tensor]
    layers: list[KeyValues]
    scales: list[Tensor]

    def join(self, one: "DiffuserCache", slot: Slot) -> None:
        for mine, other in zip(self.layers, one.layers, strict=True):
            mine.join(other, slot)

    def rewind(self, tokens: int) -> None:
        """Nobody sees what stands behind a text, and the next tokens write over it."""


@EXPERTS.register("diffuser")
class Diffuser(Expert):
    """A denoiser over the doubled sequence; `forward` is its query mode: (B, T, D) -> (B, T, D)."""

    Config = DiffuserConfig

    def __init__(self, config: DiffuserConfig, width: int):
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(
            Block(width, config.n_heads, config.inner, config.dropout) for _ in range(config.n_layers)
        )
        self.code = NoiseCode(config.code)
        self.levels = NoiseLevels()
        self.scales = nn.ModuleList(linear(config.code, 2 * width, zero=True) for _ in range(config.n_layers))
        self.rope = Rope(width // config.n_heads, config.rope_base)
        self.norm = RMSNorm(width)
        self.out = linear(width, width, zero=True)

    def forward(self, x_BTD: Tensor, documents_BT: Tensor) -> Tensor:
        block_BT = torch.arange(x_BTD.shape[1], device=x_BTD.device).expand_as(documents_BT)
        return self.denoise(x_BTD, documents_BT, queries(x_BTD, block_BT, documents_BT, 1))

    def denoise(self, x_BTD: Tensor, documents_BT: Tensor, noise: Noise, position_T1: Tensor | None = None) -> Tensor:
        """Hidden states of the noisy rows, (B, T, D), without the skip term.

        position_T1: where the T + 1 tokens of the window stand, if not one behind the other.
        """
        T = x_BTD.shape[1]
        if position_T1 is None:
            position_T1 = torch.arange(T + 1, device=x_BTD.device)
        rope = self.rope(torch.cat([position_T1[:-1], position_T1[1:]]))
        masks = doubled_masks(documents_BT, noise.documents_BT, noise.block_BT)
        attend = attend_doubled(*masks, noise.longest or T)
        code_btC = self.code(noise.log_snr_BT, noise.query_BT)
        x_BRD = torch.cat([x_BTD, noise.x_BTD.to(x_BTD.dtype)], dim=1)
        for block, scale in zip(self.blocks, self.scales, strict=True):
            clean_E, noisy_btE = scale(self.code.clean.to(code_btC.dtype)), scale(code_btC)
            scale_bRE = torch.cat([part.expand(len(noisy_btE), T, -1) for part in (clean_E, noisy_btE)], dim=1)
            x_BRD = block(x_BRD, rope, attend, scale_bRE.chunk(2, dim=-1))
        return self.out(self.norm(x_BRD[:, T:]))

    def losses(self, tokens_BT1: Tensor, start_token: int, head: LanguageHead) -> dict[str, Tensor]:
        """Cross-entropy of the posterior p(x | z, what came before) (Dieleman et al. 2022, CDCD), queries and noisy
        rows: -log softmax(E (h / sqrt(D) + (alpha / sigma^2) z) + b)[x].

        A block of one token is always a query: its only noisy row is its own, whose evidence the skip counts exactly,
        so p(x | z, past) follows from p(x | past) by Bayes' rule and there is nothing else to learn.
        """
        order_T1 = self._draw_order(tokens_BT1.shape[1]).to(tokens_BT1.device)
        documents_BT1 = number_documents(tokens_BT1, start_token)[:, order_T1]
        tokens_BT1 = tokens_BT1[:, order_T1]
        targets_BT, scored_BT = tokens_BT1[:, 1:], tokens_BT1[:, 1:] != start_token
        block_BT, size = self._draw_blocks(documents_BT1[:, 1:], scored_BT, order_T1)
        noise, place_BT = self._draw_noise(head, targets_BT, block_BT, documents_BT1[:, 1:], size)
        hidden_BTD = self.denoise(head.embed(tokens_BT1[:, :-1]), documents_BT1[:, :-1], noise, order_T1)
        # Queries alone have no evidence to add, which reaches the hundreds and needs fp32 and its time.
        nll_BT = head.nll(hidden_BTD if size == 1 else hidden_BTD.float() + noise.skip_BTD, targets_BT)
        noisy_BT = ~noise.query_BT & scored_BT
        if self.training:
            self.levels.learn(place_BT[noisy_BT], nll_BT.detach()[noisy_BT])
        share = noise.query_BT.float().mean()
        return {
            "query": share * masked_mean(nll_BT, scored_BT & noise.query_BT),
            "denoise": (1 - share) * masked_mean(nll_BT, noisy_BT),
        }

    def cases(self) -> Iterator[float]:
        """The block sizes; the order in which a window is read changes nothing that counts."""
        drawn = self.config
        first, *others = drawn.blocks
        share = drawn.next_token_share if others else 1.0
        shares = [share, *((1 - share) / len(others) for _ in others)]
        try:
            for block, share in zip((first, *others), shares, strict=True):
                self.config = replace(drawn, blocks=(block,), infill_share=0.0)
                yield share
        finally:
            self.config = drawn

    def _draw_order(self, n: int) -> Tensor:
        """The order in which a window is read, (n): as it stands, or a stretch of it after what follows it."""
        order = torch.arange(n)
        if torch.rand(()) < self.config.infill_share:
            first, last = torch.randint(1, n, (2,)).sort().values.tolist()
            order = torch.cat([order[:first], order[last:], order[first:last]])
        return order

    def _draw_blocks(self, documents_BT: Tensor, scored_BT: Tensor, order_T1: Tensor) -> tuple[Tensor, int]:
        """The number of each row's block, (B, T), and the size of blocks that nothing cuts short.

        No block goes over the end of a document or a jump in the order, and a start token is a block of its own: the
        rows before it must not see that their document ends, and the rows behind it must see where theirs begins.
        """
        config = self.config
        first = torch.rand(()) < config.next_token_share or len(config.blocks) == 1
        size = config.blocks[0 if first else int(torch.randint(1, len(config.blocks), ()))]
        T = documents_BT.shape[1]
        grid_T = (torch.arange(T, device=documents_BT.device) + int(torch.randint(size, ()))) // size
        new_T = (grid_T[1:] != grid_T[:-1]) | (order_T1[2:] != order_T1[1:-1] + 1)
        new_BT = new_T | (documents_BT[:, 1:] != documents_BT[:, :-1]) | ~scored_BT[:, :-1]
        return pad(new_BT.cumsum(dim=1), (1, 0)), size

    def _draw_noise(
        self, head: LanguageHead, targets_BT: Tensor, block_BT: Tensor, documents_BT: Tensor, size: int
    ) -> tuple[Noise, Tensor]:
        """Draw for each block whether it is a query, or else its log-SNR; and its place in the window, (B, T)."""
        B, T = targets_BT.shape
        place_BT = self.levels.place(torch.rand(B, T, device=targets_BT.device)).gather(1, block_BT)
        if size == 1:
            return queries(head.embed(targets_BT), block_BT, documents_BT, 1), place_BT
        low, high = noise_window(*head.table.shape)
        log_snr_BT = low + (high - low) * place_BT
        query_BT = (torch.rand(B, T, device=targets_BT.device) < self.config.query_share).gather(1, block_BT)
        z_BTD = add_noise(head.embed(targets_BT), log_snr_BT).masked_fill(query_BT[..., None], 0.0)
        return noisy(head, z_BTD, log_snr_BT, query_BT, block_BT, documents_BT, size), place_BT

    def start(self, batch: int, capacity: int) -> DiffuserCache:
        code_2C = torch.stack([self.code.clean, self.code.query])
        rope = self.rope(torch.arange(capacity + MARGIN, device=code_2C.device))
        layers = [KeyValues(capacity, MARGIN) for _ in self.blocks]
        return DiffuserCache(rope, layers, [scale(code_2C) for scale in self.scales])

    def extend(self, x_BTD: Tensor, span: Span, cache: DiffuserCache, shift: int = 0) -> Tensor:
        """Query mode: of the rows [clean; query], the clean ones stay in the cache and the queries are answered.

        shift: how many positions behind their place in the cache the tokens stand; not 0 only around a gap.
        """
        B, T, D = x_BTD.shape
        first, end = span.first + shift, span.end + shift
        clean, query = between(cache.rope, first, end), between(cache.rope, first + 1, end + 1)
        rope = torch.cat([clean[0], query[0]]), torch.cat([clean[1], query[1]])
        rows_BRD = torch.cat([x_BTD, x_BTD.new_zeros(B, T, D)], dim=1)
        scales = [scale_2E.repeat_interleave(T, dim=0) if T > 1 else scale_2E for scale_2E in cache.scales]
        return self._run(rows_BRD, rope, with_queries(span), scales, cache)[:, T:]

    def advance(self, x_RD: Tensor, rows: Rows, cache: DiffuserCache) -> Tensor:
        """Query mode: R clean rows, whose keys and values stay, and behind them their R queries."""
        x_QD = torch.cat([x_RD, torch.zeros_like(x_RD)])
        return self._run_rows(x_QD, rows.with_next(), cache.scales, cache, len(x_RD))

    def foresee(self, x_1D: Tensor, row: Rows, size: int, cache: DiffuserCache) -> Tensor:
        """`advance` by one clean row, with queries not only of the next token but of a block of `size`, (K, D): what
        `answer` would give for them.
        """
        x_RD, share_R = torch.cat([x_1D, x_1D.new_zeros(size, x_1D.shape[1])]), [0] + [1] * size
        scales = [scale_2E[share_R] for scale_2E in cache.scales]
        return self._run_rows(x_RD, row.with_ahead(size), scales, cache, 1)

    def answer_rows(self, x_KD: Tensor, log_snr: Tensor, ahead: Rows, cache: DiffuserCache) -> Tensor:
        """`answer` for a block of noisy rows of one text, (K, D); `ahead` as `Rows.ahead` gives it."""
        return self._run_rows(x_KD, ahead, self._scales_at(log_snr), cache)

    def _scales_at(self, log_snr: Tensor) -> list[Tensor]:
        """The scales of rows that are all at one level, by layer, (1, 2 D)."""
        code_1C = self.code(log_snr.view(1, 1), torch.zeros(1, 1, dtype=torch.bool, device=log_snr.device))[0]
        return [scale(code_1C) for scale in self.scales]

    def _run_rows(self, x_RD: Tensor, rows: Rows, scales: list[Tensor], cache: DiffuserCache, first: int = 0) -> Tensor:
        """Hidden states of all rows but the first few."""
        for block, layer, scale in zip(self.blocks, cache.layers, scales, strict=True):
            x_RD = block.advance(x_RD, cache.rope, rows, layer, scale.chunk(2, dim=-1))  # type: ignore[operator]
        return linear_rows(x_RD[first:], self.out.weight, self.norm)

    def answer(
        self, x_BTD: Tensor, log_snr: Tensor | None, ahead: Span, cache: DiffuserCache, shift: int = 0
    ) -> Tensor:
        """Hidden states of one block of noisy rows behind the cache, (B, T, D), without the skip term; nothing is kept.

        ahead: `Timeline.ahead` of T rows. x_BTD: what they read, as in `Noise`. log_snr: their level, None for queries.
        """
        rope = between(cache.rope, ahead.first + shift, ahead.end + shift)
        scales = [scale_2E[1:] for scale_2E in cache.scales] if log_snr is None else self._scales_at(log_snr)
        return self._run(x_BTD, rope, ahead, scales, cache)

    def _run(self, x_BRD: Tensor, rope, span: Span, scales: list[Tensor], cache: DiffuserCache) -> Tensor:
        for block, layer, scale in zip(self.blocks, cache.layers, scales, strict=True):
            x_BRD = block(x_BRD, rope, AttendCached(layer, span), scale.chunk(2, dim=-1))
        return self.out(self.norm(x_BRD))


def queries(like_BTD: Tensor, block_BT: Tensor, documents_BT: Tensor, longest: int | None = None) -> Noise:
    """Rows without any information about their tokens."""
    nothing_BTD = torch.zeros_like(like_BTD)
    level_11 = nothing_BTD.new_zeros(1, 1)
    every_11 = torch.ones_like(level_11, dtype=torch.bool)
    return Noise(nothing_BTD, nothing_BTD, level_11, every_11, block_BT, documents_BT, longest)


def noisy(
    head: LanguageHead,
    z_BTD: Tensor,
    log_snr_BT: Tensor,
    query_BT: Tensor,
    block_BT: Tensor,
    documents_BT: Tensor,
    longest: int | None = None,
) -> Noise:
    """Rows that know z, (B, T, D), at their log-SNR; 0 where they are queries."""
    skip_BTD = bayes_skip(z_BTD, log_snr_BT)
    x_BTD = head.expect(skip_BTD).masked_fill(query_BT[..., None], 0.0)
    return Noise(x_BTD, skip_BTD, log_snr_BT, query_BT, block_BT, documents_BT, longest)


def doubled_masks(clean_BT: Tensor, noisy_BT: Tensor, block_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Who may look where: clean rows among themselves, (B, 1, T, T), and noisy rows at [clean; noisy], (B, 1, T, 2 T).

    The documents of clean and noisy rows, and the blocks of noisy ones, (B, T) each; row t stands for token t + 1. The
    clean side is token-causal whatever the block size, so that one cache of it serves every size.
    """
    index_T = torch.arange(clean_BT.shape[1], device=clean_BT.device)
    before_block_BTT = document_starts(block_BT)[:, :, None] >= index_T
    noisy_BTS = torch.cat([same_document(noisy_BT, clean_BT) & before_block_BTT, same_document(block_BT, block_BT)], -1)
    return causal_mask(clean_BT), noisy_BTS[:, None]


def attend_doubled(clean_BNTT: Tensor, noisy_BNTS: Tensor, longest: int) -> Attend:
    """Attention over [clean; noisy] in tiles or, where torch's kernel does it, in two parts: nobody pays for the clean
    rows' masked half.

    longest: most rows of a block (rows).
    """
    T = clean_BNTT.shape[-1]
    clean_tiles, tiles = causal_tiles(T), noisy_tiles(T, longest)
    if computes_tiles(clean_BNTT.device, 2 * T):
        behind = [Tile(slice(T + tile.queries.start, T + tile.queries.stop), tile.keys) for tile in tiles]
        clean_BNTS = pad(clean_BNTT, (0, T)).expand(len(noisy_BNTS), -1, -1, -1)
        return attend_where(torch.cat([clean_BNTS, noisy_BNTS], dim=2), clean_tiles + behind)
    attend_clean, attend_noisy = attend_where(clean_BNTT, clean_tiles), attend_where(noisy_BNTS, tiles)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        clean = attend_clean(q[:, :, :T], k[:, :, :T], v[:, :, :T])
        return torch.cat([clean, attend_noisy(q[:, :, T:], k, v)], dim=2)

    return attend


def noisy_tiles(T: int, longest: int, rows: int = 64) -> list[Tile]:
    """Tiles of noisy queries: the clean keys up to their end, and the noisy ones that can be of a block with them."""
    tiles = []
    for first in range(0, T, rows):
        end = min(first + rows, T)
        own = slice(T + max(0, first - longest + 1), T + min(T, end + longest - 1))
        tiles.append(Tile(slice(first, end), (slice(0, end), own)))
    return tiles


def with_queries(span: Span) -> Span:
    """The span of [clean; query] for T new tokens: query t sees what clean row t sees, and itself."""
    T = span.end - span.first
    hidden_TT = torch.full((T, T), float("-inf"), device=span.bias_BNTS.device)
    own_RT = torch.cat([hidden_TT, hidden_TT.clone().fill_diagonal_(0.0)])
    seen_BNRS = torch.cat([span.bias_BNTS, span.bias_BNTS], dim=2)
    bias_BNRS = torch.cat([seen_BNRS, own_RT.expand(len(seen_BNRS), 1, -1, -1)], dim=-1)
    return Span(span.first, span.documents_BS, bias_BNRS)
