"""NanoChat's body: a decoder under the shared head, of the very layers that the mixture's transformer is made of.

It shows the face of `NanoThink`, so that whatever reads, writes, serves or scores the one does it with the other; a
whole trained mixture is a chat model's body by being trained on chats itself (`NanoThink.thaw`).

B batch, T tokens, R rows that go on by one token, D model width, V vocabulary
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nano_think.core.config import parse, to_dict
from nano_think.experts import build_expert
from nano_think.experts.transformer import Transformer, TransformerConfig
from nano_think.heads.language import LanguageHead
from nano_think.models.think import Cache, Fusion, NanoThink, Routed, RouterCache
from nano_think.nn.cache import Rows, RunningMean, Slot, Timeline
from nano_think.nn.documents import number_documents

KIND = "transformer"
LONGEST = 16_384
"""Positions that the backbone is made for; RoPE itself ends nowhere (tokens)."""


@dataclass(frozen=True, kw_only=True)
class ChatShape:
    """Everything that fixes the tensors of a chat model with a body of its own."""

    width: int
    vocabulary: int
    window: int
    start_token: int
    backbone: TransformerConfig

    def to_dict(self) -> dict[str, Any]:
        plain = {"width": self.width, "vocabulary": self.vocabulary, "window": self.window}
        return plain | {"start_token": self.start_token, "backbone": to_dict(self.backbone)}

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str) -> "ChatShape":
        return cls(**values | {"backbone": parse(TransformerConfig, values["backbone"], where)})


class Chat(nn.Module):
    """Tokens (B, T) -> `Routed`: the backbone's hidden state (B, T, D) as the one stream, of weight 1."""

    def __init__(self, head: LanguageHead, backbone: Transformer, start_token: int):
        super().__init__()
        self.head, self.backbone, self.start_token = head, backbone, start_token
        self.fusion: Fusion = "hidden"

    @property
    def names(self) -> list[str]:
        """The one stream's name."""
        return [KIND]

    def forward(self, tokens_BT: Tensor) -> Routed:
        documents_BT = number_documents(tokens_BT, self.start_token)
        return _as_routed(self.backbone(self.head.embed(tokens_BT), documents_BT))

    def nll(self, routed: Routed, targets_BT: Tensor) -> Tensor:
        """Negative log-likelihood of each target in nats, (B, T), without ever holding (B, T, V) numbers."""
        return self.head.nll(routed.hidden, targets_BT)

    def logits(self, routed: Routed) -> Tensor:
        """(B, T, V) whose softmax is the next token's distribution, in fp32."""
        return self.head.logits(routed.hidden)

    def logits_of_rows(self, routed: Routed) -> Tensor:
        """`logits` of what `advance` gave, (R, V)."""
        return self.head.logits_of_rows(routed.hidden[:, 0])

    def start(self, batch: int, capacity: int) -> Cache:
        """An empty cache for `batch` rows of at most `capacity` tokens; there is no router to remember anything."""
        timeline = Timeline(batch, capacity, self.head.table.device)
        return Cache(timeline, {KIND: self.backbone.start(batch, capacity)}, _NoRouter(None, RunningMean()))

    @torch.no_grad()
    def extend(self, tokens_BT: Tensor, cache: Cache, documents_BT: Tensor | None = None) -> Routed:
        """What `forward` over all that the cache has read would give for T new tokens; documents as in `NanoThink`."""
        if documents_BT is None:
            documents_BT = cache.timeline.number(tokens_BT, self.start_token)
        span = cache.timeline.append(documents_BT)
        return _as_routed(self.backbone.extend(self.head.embed(tokens_BT), span, cache.experts[KIND]))

    @torch.no_grad()
    def advance(self, tokens_R: Tensor, rows: Rows, cache: Cache) -> Routed:
        """What `extend` would give for one new token of each of R rows, which have joined the cache: (R, 1, ...)."""
        hidden_RD = self.backbone.advance(self.head.embed(tokens_R), rows, cache.experts[KIND])
        return _as_routed(hidden_RD[:, None])


class _NoRouter(RouterCache):
    """What is kept for a router that is not there."""

    def join(self, one: RouterCache, slot: Slot) -> None:
        """Nothing is kept, and nothing joins it."""


Model = NanoThink | Chat
"""Whatever can be read, written with, scored and served."""


def _as_routed(hidden_BTD: Tensor) -> Routed:
    return Routed(hidden_BTD, torch.ones_like(hidden_BTD[..., :1]), hidden_BTD[:, :, None])


def build_chat(shape: ChatShape, head: LanguageHead | None = None) -> Chat:
    """The chat model of this shape, freshly initialised; the head is empty unless given."""
    head = head or LanguageHead(torch.zeros(shape.vocabulary, shape.width), torch.zeros(shape.vocabulary))
    backbone = build_expert(KIND, shape.backbone, shape.width)
    assert isinstance(backbone, Transformer)
    return Chat(head, backbone, shape.start_token)
