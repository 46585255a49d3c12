"""The mixture: frozen experts in one space, a latent-attention router, a weighted sum.

B batch, T tokens, D model width, K experts
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nano_think.core.config import Config
from nano_think.experts import Expert
from nano_think.heads.language import LanguageHead
from nano_think.nn.attention import attend_where, causal_tiles
from nano_think.nn.blend import Blend, BlendKind
from nano_think.nn.cache import RunningMean, Span, Timeline
from nano_think.nn.documents import causal_mask, number_documents
from nano_think.nn.mla import LatentAttention, LatentCache
from nano_think.nn.norm import RMSNorm


@dataclass(frozen=True, kw_only=True, slots=True)
class RouterConfig(Config):
    """The shape of the router."""

    kind: BlendKind = "expert"
    """What a token's weights may depend on: nothing, the running mean of the context, the context, or that and the
    experts' hidden states."""
    n_heads: int = 4
    """Heads of the latent attention."""
    latent: int = 32
    """Width of the latent that keys and values are read off (channels)."""
    rotated: int = 16
    """Width of the part of queries and keys that carries position (channels)."""


class Routed(NamedTuple):
    """What the mixture makes of a sequence: the fused hidden (B, T, D), weights (B, T, K), experts' hiddens (B, T, K,
    D).
    """

    hidden: Tensor
    weights: Tensor
    streams: Tensor


class Router(nn.Module):
    """c = u + MLA(RMSNorm(u)) over the embeddings u, then the weights of a `Blend`; every position sees its past
    alone.
    """

    def __init__(self, config: RouterConfig, width: int, n_experts: int):
        super().__init__()
        self.norm = RMSNorm(width)
        self.attention = LatentAttention(width, config.n_heads, config.latent, config.rotated)
        self.blend = Blend(width, n_experts, config.kind)

    def forward(
        self, x_BTD: Tensor, streams_BTKD: Tensor, documents_BT: Tensor, dropped_BK: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The fused hidden, (B, T, D), and the weights, (B, T, K)."""
        attend = attend_where(causal_mask(documents_BT), causal_tiles(x_BTD.shape[1]))
        context_BTD = x_BTD + self.attention(self.norm(x_BTD), attend)
        weights_BTK = self.blend.weights(context_BTD, streams_BTKD, documents_BT, dropped_BK)
        return self.blend.fuse(weights_BTK, streams_BTKD), weights_BTK

    def start(self, capacity: int) -> "RouterCache":
        return RouterCache(self.attention.start(capacity), RunningMean())

    def extend(self, x_BTD: Tensor, streams_BTKD: Tensor, span: Span, cache: "RouterCache") -> tuple[Tensor, Tensor]:
        """`forward` for new tokens behind a cache."""
        context_BTD = x_BTD + self.attention.extend(self.norm(x_BTD), span, cache.latents)
        weights_BTK = self.blend.extend(context_BTD, streams_BTKD, span, cache.mean)
        return self.blend.fuse(weights_BTK, streams_BTKD), weights_BTK


class RouterCache(NamedTuple):
    """What the router keeps: a row of latents per token, and the sum that a running mean needs."""

    latents: LatentCache
    mean: RunningMean


class Cache(NamedTuple):
    """What the mixture keeps of what it has read: the documents, each expert's cache, the router's."""

    timeline: Timeline
    experts: dict[str, Any]
    router: RouterCache


class NanoThink(nn.Module):
    """A mixture of experts of different kinds over one frozen embedding; tokens (B, T) -> `Routed`.

    The experts are frozen and in evaluation mode whatever `train` is told: only the router learns.
    """

    def __init__(self, head: LanguageHead, experts: dict[str, Expert], router: Router, start_token: int):
        super().__init__()
        self.head, self.router, self.start_token = head, router, start_token
        self.experts = nn.ModuleDict(experts).requires_grad_(False).eval()

    @property
    def names(self) -> list[str]:
        """The experts' names, in the order of the weights."""
        return list(self.experts)

    def train(self, mode: bool = True) -> "NanoThink":
        super().train(mode)
        self.experts.eval()
        return self

    @torch.no_grad()
    def streams(self, x_BTD: Tensor, documents_BT: Tensor) -> Tensor:
        """Each expert's hidden states, (B, T, K, D)."""
        return torch.stack([expert(x_BTD, documents_BT) for expert in self.experts.values()], dim=2)

    def forward(self, tokens_BT: Tensor, dropped_BK: Tensor | None = None) -> Routed:
        documents_BT = number_documents(tokens_BT, self.start_token)
        x_BTD = self.head.embed(tokens_BT)
        streams_BTKD = self.streams(x_BTD, documents_BT)
        hidden_BTD, weights_BTK = self.router(x_BTD, streams_BTKD, documents_BT, dropped_BK)
        return Routed(hidden_BTD, weights_BTK, streams_BTKD)

    def start(self, batch: int, capacity: int) -> Cache:
        """An empty cache for `batch` rows of at most `capacity` tokens."""
        experts = {name: expert.start(batch, capacity) for name, expert in self._experts()}
        return Cache(Timeline(batch, capacity, self.head.table.device), experts, self.router.start(capacity))

    @torch.no_grad()
    def extend(self, tokens_BT: Tensor, cache: Cache, documents_BT: Tensor | None = None) -> Routed:
        """What `forward` over all that the cache has read would give for T new tokens.

        Without `documents_BT`, a start token begins a new document; `pad_left` makes those of rows of different
        lengths.
        """
        if documents_BT is None:
            documents_BT = cache.timeline.number(tokens_BT, self.start_token)
        span = cache.timeline.append(documents_BT)
        x_BTD = self.head.embed(tokens_BT)
        streams = [expert.extend(x_BTD, span, cache.experts[name]) for name, expert in self._experts()]
        streams_BTKD = torch.stack(streams, dim=2)
        return Routed(*self.router.extend(x_BTD, streams_BTKD, span, cache.router), streams_BTKD)

    def _experts(self) -> Iterable[tuple[str, Expert]]:
        return self.experts.items()  # type: ignore[return-value]
