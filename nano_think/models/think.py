"""The mixture: frozen experts in one space, a router that weighs them, and one distribution out of theirs.

B batch, T tokens, D model width, K experts, R rows of a step
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from nano_think.core.config import Config
from nano_think.experts import Expert
from nano_think.heads.language import LanguageHead
from nano_think.models.fusion import mixed_logits, mixed_nll, nll_of_each
from nano_think.nn.attention import attend_where, causal_tiles
from nano_think.nn.blend import Blend, BlendKind
from nano_think.nn.cache import Rows, RunningMean, Slot, Span, Timeline
from nano_think.nn.documents import causal_mask, number_documents
from nano_think.nn.mha import PlainAttention
from nano_think.nn.mla import LatentAttention
from nano_think.nn.norm import RMSNorm

Fusion = Literal["hidden", "probability"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RouterConfig(Config):
    """The shape of the router."""

    kind: BlendKind = "expert"
    """What a token's weights may depend on: nothing, the running mean of the context, the context, or that and the
    experts' hidden states."""
    fusion: Fusion = "hidden"
    """What the weights weigh: the experts' hidden states, times one learned scale (a product of experts), or their
    distributions (a sum of experts, without a scale)."""
    attention: Literal["mla", "mha"] = "mla"
    """What reads the context: latent attention, or plain attention, which has a larger cache and neither `latent` nor
    `rotated`."""
    n_heads: int = 4
    """Heads of the attention."""
    latent: int = 32
    """Width of the latent that keys and values are read off (channels)."""
    rotated: int = 16
    """Width of the part of queries and keys that carries position, an even one (channels)."""

    def __post_init__(self) -> None:
        self.at_least(1, "n_heads")
        if self.attention == "mla":
            self.at_least(1, "latent")
            if self.rotated < 2 or self.rotated % 2:
                raise ValueError(f"rotated: wanted an even width of at least 2, got {self.rotated}")


class Routed(NamedTuple):
    """What the mixture makes of a sequence: the fused hidden (B, T, D), weights (B, T, K), experts' hiddens (B, T, K,
    D).

    What it says of the next token is read with `NanoThink.nll` and `NanoThink.logits`: only a fusion of hiddens speaks
    through the fused hidden.
    """

    hidden: Tensor
    weights: Tensor
    streams: Tensor

    def last(self) -> "Routed":
        """The same of the last position alone."""
        return Routed(*(part[:, -1:] for part in self))


class Router(nn.Module):
    """c = u + attention(RMSNorm(u)) over the embeddings u, then the weights of a `Blend`; every position sees its past
    alone.
    """

    def __init__(self, config: RouterConfig, width: int, n_experts: int):
        super().__init__()
        self.norm = RMSNorm(width)
        self.attention = build_attention(config, width)
        self.blend = Blend(width, n_experts, config.kind, scaled=config.fusion == "hidden")
        self.fusion = config.fusion

    def forward(
        self, x_BTD: Tensor, streams_BTKD: Tensor, documents_BT: Tensor, dropped_BK: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The fused hidden, (B, T, D), and the weights, (B, T, K)."""
        weights_BTK = self.weigh(x_BTD, streams_BTKD, documents_BT, dropped_BK)
        return self.blend.fuse(weights_BTK, streams_BTKD), weights_BTK

    def weigh(
        self, x_BTD: Tensor, streams_BTKD: Tensor, documents_BT: Tensor, dropped_BK: Tensor | None = None
    ) -> Tensor:
        """The weights alone, (B, T, K)."""
        attend = attend_where(causal_mask(documents_BT), causal_tiles(x_BTD.shape[1]))
        context_BTD = x_BTD + self.attention(self.norm(x_BTD), attend)
        return self.blend.weights(context_BTD, streams_BTKD, documents_BT, dropped_BK)

    def start(self, capacity: int) -> "RouterCache":
        return RouterCache(self.attention.start(capacity), RunningMean())

    def extend(self, x_BTD: Tensor, streams_BTKD: Tensor, span: Span, cache: "RouterCache") -> tuple[Tensor, Tensor]:
        """`forward` for new tokens behind a cache."""
        context_BTD = x_BTD + self.attention.extend(self.norm(x_BTD), span, cache.context)
        weights_BTK = self.blend.extend(context_BTD, streams_BTKD, span, cache.mean)
        return self.blend.fuse(weights_BTK, streams_BTKD), weights_BTK

    def advance(self, x_RD: Tensor, streams_RKD: Tensor, rows: Rows, cache: "RouterCache") -> tuple[Tensor, Tensor]:
        """`forward` for one new token of each of R rows: the fused hidden, (R, D), and the weights, (R, K)."""
        context_RD = self.attention.advance(x_RD, self.norm, rows, cache.context)
        weights_RK = self.blend.advance(context_RD, streams_RKD, rows, cache.mean)
        return self.blend.fuse_rows(weights_RK, streams_RKD), weights_RK


def build_attention(config: RouterConfig, width: int) -> LatentAttention | PlainAttention:
    """The router's attention, freshly initialised."""
    if config.attention == "mha":
        return PlainAttention(width, config.n_heads)
    return LatentAttention(width, config.n_heads, config.latent, config.rotated)


class RouterCache(NamedTuple):
    """What the router keeps: what its attention needs of each token, and the sum that a running mean needs."""

    context: Any
    mean: RunningMean

    def join(self, one: "RouterCache", slot: Slot) -> None:
        self.context.join(one.context, slot)
        self.mean.join(one.mean, slot)

    def rewind(self, tokens: int) -> None:
        """Take the last tentative tokens back: what attention keeps of them is seen by nobody."""
        self.mean.rewind(tokens)


class Cache(NamedTuple):
    """What the mixture keeps of what it has read: the documents, each expert's cache, the router's."""

    timeline: Timeline
    experts: dict[str, Any]
    router: RouterCache

    def join(self, index: int, one: "Cache") -> None:
        """Put what a cache of one row has read into a slot of this one."""
        slot = Slot(index, len(self.timeline.documents_BS), one.timeline.length)
        for name, expert in self.experts.items():
            expert.join(one.experts[name], slot)
        self.router.join(one.router, slot)

    def rewind(self, tokens: int) -> None:
        """Take the last of the tokens back that were read as tentative `Rows`; the others stay for good."""
        for expert in self.experts.values():
            expert.rewind(tokens)
        self.router.rewind(tokens)


class NanoThink(nn.Module):
    """A mixture of experts of different kinds over one frozen embedding; tokens (B, T) -> `Routed`.

    The experts are frozen and in evaluation mode whatever `train` is told: only the router learns, unless `thaw` has
    let the experts learn too.
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

    @property
    def fusion(self) -> Fusion:
        """What the weights weigh."""
        return self.router.fusion

    def thaw(self) -> "NanoThink":
        """From now on the experts learn too, without dropout: the whole mixture as the body of a chat model."""
        self.experts.requires_grad_(True)
        return self

    def streams(self, x_BTD: Tensor, documents_BT: Tensor) -> Tensor:
        """Each expert's hidden states, (B, T, K, D); without gradient where the experts are frozen."""
        thawed = any(parameter.requires_grad for parameter in self.experts.parameters())
        with torch.set_grad_enabled(thawed and torch.is_grad_enabled()):
            return torch.stack([expert(x_BTD, documents_BT) for expert in self.experts.values()], dim=2)

    def read_experts(self, tokens_BT: Tensor) -> Tensor:
        """`streams` of tokens."""
        return self.streams(self.head.embed(tokens_BT), number_documents(tokens_BT, self.start_token))

    def forward(
        self, tokens_BT: Tensor, dropped_BK: Tensor | None = None, streams_BTKD: Tensor | None = None
    ) -> Routed:
        """`dropped_BK` is True for experts that are left out; `streams_BTKD` is what `read_experts` gave, where it is
        at hand.
        """
        documents_BT = number_documents(tokens_BT, self.start_token)
        x_BTD = self.head.embed(tokens_BT)
        if streams_BTKD is None:
            streams_BTKD = self.streams(x_BTD, documents_BT)
        hidden_BTD, weights_BTK = self.router(x_BTD, streams_BTKD, documents_BT, dropped_BK)
        return Routed(hidden_BTD, weights_BTK, streams_BTKD)

    def weigh(self, tokens_BT: Tensor, dropped_BK: Tensor | None, streams_BTKD: Tensor) -> Tensor:
        """The weights of `forward` alone, (B, T, K)."""
        documents_BT = number_documents(tokens_BT, self.start_token)
        return self.router.weigh(self.head.embed(tokens_BT), streams_BTKD, documents_BT, dropped_BK)

    def nll(self, routed: Routed, targets_BT: Tensor) -> Tensor:
        """Negative log-likelihood of each target in nats, (B, T), without ever holding (B, T, V) numbers."""
        if self.router.fusion == "hidden":
            return self.head.nll(routed.hidden, targets_BT)
        return mixed_nll(routed.weights, nll_of_each(self.head, routed.streams, targets_BT))

    def logits(self, routed: Routed) -> Tensor:
        """(B, T, V) whose softmax is the next token's distribution, in fp32."""
        if self.router.fusion == "hidden":
            return self.head.logits(routed.hidden)
        return mixed_logits(self.head, routed.weights, routed.streams)

    def logits_of_rows(self, routed: Routed) -> Tensor:
        """`logits` of what `advance` gave, (R, V)."""
        if self.router.fusion == "hidden":
            return self.head.logits_of_rows(routed.hidden[:, 0])
        return self.logits(routed)[:, 0]

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

    @torch.no_grad()
    def advance(self, tokens_R: Tensor, rows: Rows, cache: Cache) -> Routed:
        """What `extend` would give for one new token of each of R rows, which have joined the cache: (R, 1, ...); or
        for R tokens of one text that are tentative.
        """
        x_RD = self.head.embed(tokens_R)
        streams = [expert.advance(x_RD, rows, cache.experts[name]) for name, expert in self._experts()]
        streams_RKD = torch.stack(streams, dim=1)
        hidden_RD, weights_RK = self.router.advance(x_RD, streams_RKD, rows, cache.router)
        return Routed(hidden_RD[:, None], weights_RK[:, None], streams_RKD[:, None])

    def _experts(self) -> Iterable[tuple[str, Expert]]:
        return self.experts.items()  # type: ignore[return-value]
