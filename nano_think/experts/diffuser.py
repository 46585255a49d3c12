"""The diffuser expert: a denoiser of token embeddings that is causal by construction.

It reads a doubled sequence (Arriola et al. 2025, BD3-LMs): the clean tokens, and behind them noisy rows that stand
where the targets will be. Clean rows see clean rows up to themselves; a noisy row sees the clean rows before its block
and the noisy rows of its block. A row with no information at all (z = 0, the "query") predicts the next token exactly:
with blocks of one, that is an ordinary causal language model, and it is the mode that the mixture fuses.

B batch, T tokens, R rows (2 T), D model width, C width of the noise code
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from nano_think.experts import EXPERTS, Expert, ExpertConfig, masked_mean
from nano_think.heads.language import LanguageHead
from nano_think.nn.attention import Attend, attend_where
from nano_think.nn.block import Block
from nano_think.nn.cache import AttendCached, KeyValues, Span
from nano_think.nn.documents import causal_mask, number_documents, same_document
from nano_think.nn.linear import linear
from nano_think.nn.rope import Rope, between

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
    query_share: float = 0.75
    """Share of blocks that are pure queries, without any information about their tokens (0 to 1)."""

    def __post_init__(self) -> None:
        ExpertConfig.__post_init__(self)
        if self.code < 2 or self.code % 2:
            raise ValueError(f"code: wanted an even width, got {self.code}")
        if not self.blocks or min(self.blocks) < 1:
            raise ValueError(f"blocks: wanted one or more sizes of at least 1, got {list(self.blocks)}")
        for name in ("next_token_share", "query_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: wanted a share from 0 to 1, got {getattr(self, name)}")


class Noise(NamedTuple):
    """What the noisy half is made of. Log-SNR is lambda: alpha^2 = sigmoid(lambda), sigma^2 = sigmoid(-lambda)."""

    z_BTD: Tensor
    log_snr_BT: Tensor
    query_BT: Tensor
    block_T: Tensor


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
        self.scales = nn.ModuleList(linear(config.code, 2 * width, zero=True) for _ in range(config.n_layers))
        self.rope = Rope(width // config.n_heads, config.rope_base)
        self.norm = nn.RMSNorm(width)
        self.out = linear(width, width, zero=True)

    def forward(self, x_BTD: Tensor, documents_BT: Tensor) -> Tensor:
        B, T, _ = x_BTD.shape
        level_BT = x_BTD.new_zeros(B, T)
        block_T = torch.arange(T, device=x_BTD.device)
        query = Noise(torch.zeros_like(x_BTD), level_BT, torch.ones_like(level_BT, dtype=torch.bool), block_T)
        return self.denoise(x_BTD, documents_BT, query)

    def start(self, batch: int, capacity: int) -> "DiffuserCache":
        code_2C = torch.stack([self.code.clean, self.code.query])
        rope = self.rope(torch.arange(capacity + MARGIN, device=code_2C.device))
        return DiffuserCache(
            rope=rope,
            layers=[KeyValues(capacity, MARGIN) for _ in self.blocks],
            scales=[scale(code_2C) for scale in self.scales],
        )

    def extend(self, x_BTD: Tensor, span: Span, cache: "DiffuserCache") -> Tensor:
        """Query mode: of the rows [clean; query], the clean ones stay in the cache and the queries are answered."""
        B, T, D = x_BTD.shape
        clean, query = between(cache.rope, span.first, span.end), between(cache.rope, span.first + 1, span.end + 1)
        rope = torch.cat([clean[0], query[0]]), torch.cat([clean[1], query[1]])
        x_BRD = torch.cat([x_BTD, x_BTD.new_zeros(B, T, D)], dim=1)
        span = with_queries(span)
        for block, layer, scale_2E in zip(self.blocks, cache.layers, cache.scales, strict=True):
            scale_RE = scale_2E.repeat_interleave(T, dim=0) if T > 1 else scale_2E
            x_BRD = block(x_BRD, rope, AttendCached(layer, span), scale_RE.chunk(2, dim=-1))
        return self.out(self.norm(x_BRD[:, T:]))

    def denoise(self, x_BTD: Tensor, documents_BT: Tensor, noise: Noise) -> Tensor:
        """Hidden states of the noisy rows, (B, T, D), without the skip term; row t stands for token t + 1."""
        T = x_BTD.shape[1]
        index_T = torch.arange(T, device=x_BTD.device)
        rope = self.rope(torch.cat([index_T, index_T + 1]))
        attend = attend_doubled(*doubled_masks(documents_BT, noise.block_T))
        code_BRC = self.code(noise.log_snr_BT, noise.query_BT)
        x_BRD = torch.cat([x_BTD, noise.z_BTD.to(x_BTD.dtype)], dim=1)
        for block, scale in zip(self.blocks, self.scales, strict=True):
            x_BRD = block(x_BRD, rope, attend, scale(code_BRC).chunk(2, dim=-1))
        return self.out(self.norm(x_BRD[:, T:]))

    def losses(self, tokens_BT1: Tensor, start_token: int, head: LanguageHead) -> dict[str, Tensor]:
        """Cross-entropy of the posterior p(x | z, what came before) (Dieleman et al. 2022, CDCD), queries and noisy
        rows.

        The head adds the evidence of z exactly (the Bayes skip): all rows of E have one length, so
        p(v | z) is proportional to exp((alpha / sigma^2) e_v z), and logits = E (h / sqrt(D) + (alpha / sigma^2) z) +
        b.
        """
        inputs_BT, targets_BT = tokens_BT1[:, :-1], tokens_BT1[:, 1:]
        noise = self.draw_noise(head.embed(targets_BT), head.table.shape)
        hidden_BTD = self.denoise(head.embed(inputs_BT), number_documents(inputs_BT, start_token), noise)
        nll_BT = head.nll(hidden_BTD.float() + bayes_skip(noise, head.width), targets_BT)
        scored_BT = targets_BT != start_token
        share = noise.query_BT.float().mean()
        return {
            "query": share * masked_mean(nll_BT, scored_BT & noise.query_BT),
            "denoise": (1 - share) * masked_mean(nll_BT, scored_BT & ~noise.query_BT),
        }

    def draw_noise(self, target_BTD: Tensor, table_shape: torch.Size) -> Noise:
        """Draw a block size for the batch, and for each block whether it is a query or else its log-SNR."""
        B, T, _ = target_BTD.shape
        config, device = self.config, target_BTD.device
        first = torch.rand(()) < config.next_token_share or len(config.blocks) == 1
        size = config.blocks[0 if first else int(torch.randint(1, len(config.blocks), ()))]
        block_T = (torch.arange(T, device=device) + int(torch.randint(size, ()))) // size
        low, high = noise_window(*table_shape)
        log_snr_BT = (low + (high - low) * torch.rand(B, T, device=device))[:, block_T]
        query_BT = (torch.rand(B, T, device=device) < config.query_share)[:, block_T]
        alpha, sigma = log_snr_BT.sigmoid().sqrt()[..., None], (-log_snr_BT).sigmoid().sqrt()[..., None]
        z_BTD = alpha * target_BTD + sigma * torch.randn_like(target_BTD)
        return Noise(z_BTD.masked_fill(query_BT[..., None], 0.0), log_snr_BT, query_BT, block_T)


class DiffuserCache(NamedTuple):
    """Rotations of all positions; keys and values of clean rows by layer, whatever block is asked next; the scales
    of clean rows and of queries by layer, (2, 2 D).
    """

    rope: tuple[Tensor, Tensor]
    layers: list[KeyValues]
    scales: list[Tensor]


class NoiseCode(nn.Module):
    """A code per row: one learned vector for clean rows, one for queries, Fourier features of log-SNR for the rest."""

    frequency: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.clean, self.query = (nn.Parameter(torch.randn(width)) for _ in range(2))
        self.register_buffer("frequency", 2.0 ** torch.linspace(-4, 2, width // 2), persistent=False)
        self.mix = linear(width, width)

    def forward(self, log_snr_BT: Tensor, query_BT: Tensor) -> Tensor:
        angle = log_snr_BT[..., None] * self.frequency
        noisy_BTC = silu(self.mix(torch.cat([angle.sin(), angle.cos()], dim=-1)))
        noisy_BTC = torch.where(query_BT[..., None], self.query.to(noisy_BTC.dtype), noisy_BTC)
        return torch.cat([self.clean.to(noisy_BTC.dtype).expand_as(noisy_BTC), noisy_BTC], dim=1)


def doubled_masks(documents_BT: Tensor, block_T: Tensor) -> tuple[Tensor, Tensor]:
    """Who may look where: clean rows among themselves, (B, 1, T, T), and noisy rows at [clean; noisy], (B, 1, T, 2 T).

    Noisy row t stands for token t + 1, in block `block_T[t]`. The clean side is token-causal whatever the block size,
    so that one cache of it serves every size.
    """
    index_T = torch.arange(documents_BT.shape[1], device=documents_BT.device)
    same_BTT = same_document(documents_BT, documents_BT)
    start_T = torch.searchsorted(block_T, block_T)
    before_block_TT = start_T[:, None] >= index_T
    own_block_TT = block_T[:, None] == block_T
    noisy = torch.cat([same_BTT & before_block_TT, same_BTT & own_block_TT], dim=-1)
    return causal_mask(documents_BT), noisy[:, None]


def attend_doubled(clean_BNTT: Tensor, noisy_BNTS: Tensor) -> Attend:
    """Attention over [clean; noisy] in two parts, so that nobody pays for the clean rows' masked half."""
    attend_clean, attend_noisy = attend_where(clean_BNTT), attend_where(noisy_BNTS)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        T = q.shape[2] // 2
        clean = attend_clean(q[:, :, :T], k[:, :, :T], v[:, :, :T])
        return torch.cat([clean, attend_noisy(q[:, :, T:], k, v)], dim=2)

    return attend


def with_queries(span: Span) -> Span:
    """The span of [clean; query] for T new tokens: query t sees what clean row t sees, and itself."""
    T = span.end - span.first
    hidden_TT = torch.full((T, T), float("-inf"), device=span.bias_BNTS.device)
    own_RT = torch.cat([hidden_TT, hidden_TT.clone().fill_diagonal_(0.0)])
    seen_BNRS = torch.cat([span.bias_BNTS, span.bias_BNTS], dim=2)
    bias_BNRS = torch.cat([seen_BNRS, own_RT.expand(len(seen_BNRS), 1, -1, -1)], dim=-1)
    return Span(span.first, span.documents_BS, bias_BNRS)


def noise_window(vocabulary: int, width: int) -> tuple[float, float]:
    """Log-SNRs between which a token goes from hidden to plain: around log(2 H / d), H = ln V nats in d dimensions."""
    centre = math.log(2 * math.log(vocabulary) / width)
    return centre - 6.0, centre + 2.0


def bayes_skip(noise: Noise, width: int) -> Tensor:
    """sqrt(D) (alpha / sigma^2) z, (B, T, D): what to add to h so that the head counts z's own evidence; 0 for
    queries.
    """
    log_snr = noise.log_snr_BT.float()
    gain_BT = log_snr.sigmoid().sqrt() / (-log_snr).sigmoid()
    return (width**0.5 * gain_BT)[..., None] * noise.z_BTD.float()
