"""NanoChat's body: a decoder under the shared head, of the very layers that the mixture's transformer is made of.

It shows the face of `NanoThink`, so that whatever reads, writes, serves or scores the one does it with the other; a
whole trained mixture is a chat model's body by being trained on chats itself (`NanoThink.thaw`).

B batch, T tokens, R rows that go on by one token, D model width, V vocabulary
"""

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
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
from nano_think.parts import PARTS, Dials, Lesson, Part, PartConfig, Voices, build_part, one_voice

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
    parts: dict[str, PartConfig] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        plain = {"width": self.width, "vocabulary": self.vocabulary, "window": self.window}
        parts = {name: to_dict(config) for name, config in self.parts.items()}
        return plain | {"start_token": self.start_token, "backbone": to_dict(self.backbone), "parts": parts}

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str) -> "ChatShape":
        """Of a configuration from before there were parts, without any."""
        own = {"backbone": parse(TransformerConfig, values["backbone"], where)}
        return cls(**values | own | {"parts": read_parts(values.get("parts", {}), where)})


def read_parts(values: dict[str, Any], where: str) -> dict[str, PartConfig]:
    """The configurations of parts, by name, in the order of the registry, in which they act."""
    unknown = values.keys() - set(PARTS)
    return {
        name: parse(PARTS[name].Config, values[name], where) for name in [*sorted(unknown), *PARTS] if name in values
    }


Carried = Mapping[str, Mapping[str, Tensor]]
"""What is kept of a text that has left the window, by part and by name; it can be saved."""


class Chat(nn.Module):
    """Tokens (B, T) -> `Routed`: the backbone's hidden state (B, T, D), as its parts, where it has any, have made it.

    Without a part that blends voices of its own that state is the one stream, of weight 1.
    """

    def __init__(
        self, head: LanguageHead, backbone: Transformer, start_token: int, parts: dict[str, Part] | None = None
    ):
        super().__init__()
        self.head, self.backbone, self.start_token = head, backbone, start_token
        self.parts = nn.ModuleDict(parts or {})
        self.fusion: Fusion = "hidden"

    @property
    def names(self) -> list[str]:
        """The streams' names: the modes of a psyche, or the backbone's."""
        return next((list(part.names) for _, part in self._parts() if part.names), [KIND])

    @property
    def dials(self) -> list[str]:
        """What a request may steer."""
        return [dial for _, part in self._parts() for dial in part.dials]

    @property
    def tells(self) -> list[str]:
        """The figures that `judge` names."""
        return [figure for _, part in self._parts() for figure in part.tells]

    def forward(self, tokens_BT: Tensor, dials: Dials | None = None) -> Routed:
        documents_BT = number_documents(tokens_BT, self.start_token)
        return self._speak(self._read(tokens_BT, documents_BT, documents_BT), documents_BT, dials or {})

    def embed(self, tokens_BT: Tensor, documents_BT: Tensor) -> Tensor:
        """What the backbone is given for tokens, (B, T, D)."""
        x_BTD = self.head.embed(tokens_BT)
        for _, part in self._parts():
            x_BTD = part.read(x_BTD, tokens_BT, documents_BT)
        return x_BTD

    def hear(self, x_BTD: Tensor, documents_BT: Tensor) -> Routed:
        """What `forward` says of tokens, of whatever the backbone is given."""
        return self._speak(self.backbone(x_BTD, documents_BT), documents_BT, {})

    def learn(self, tokens_BT1: Tensor, learned_BT: Tensor) -> tuple[Routed, dict[str, Tensor]]:
        """`forward` of the first T tokens of each window, and the terms that the parts add to the loss; learned_BT is
        True for the targets that count.
        """
        inputs_BT = tokens_BT1[:, :-1]
        documents_BT = number_documents(inputs_BT, self.start_token)
        seen_BT = documents_BT
        for _, part in self._parts():
            seen_BT = part.hide(seen_BT, inputs_BT)
        body_BTD = self._read(inputs_BT, documents_BT, seen_BT)
        routed = self._speak(body_BTD, documents_BT, {})
        every_BT = tokens_BT1[:, 1:] != self.start_token
        lesson = Lesson(tokens_BT1, documents_BT, learned_BT, every_BT, self.head, body_BTD, routed.hidden, self.write)
        found = [(name, part.losses(lesson)) for name, part in self._parts()]
        return routed, {f"{name}.{term}": loss for name, terms in found for term, loss in terms.items()}

    def judge(self, routed: Routed) -> dict[str, Tensor]:
        """Named figures of each position, (B, T) each."""
        return {name: value for _, part in self._parts() for name, value in part.judge(routed.hidden).items()}

    @torch.no_grad()
    def write(self, tokens_BS: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """`count` tokens that the model draws behind each text, (B, N), none of them a start token, and the hidden
        states that have read them, (B, N, D). A row's draws depend on its own text alone, also while training.
        """
        training = self.training
        self.eval()
        seeds = [zlib.crc32(row.tobytes()) for row in tokens_BS.cpu().numpy()]
        noise = [torch.Generator().manual_seed(seed) for seed in seeds]
        cache, drawn, read = self.start(len(tokens_BS), tokens_BS.shape[1] + count), [], []
        routed = self.extend(tokens_BS, cache)
        for _ in range(count):
            logits_BV = self.logits(routed.last())[:, 0].index_fill(1, self._start_index(), float("-inf"))
            # Gumbel noise: the largest sum is a draw.
            uniform_BV = torch.stack([torch.rand(logits_BV.shape[1], generator=one) for one in noise])
            token_B1 = (logits_BV - (-uniform_BV.to(logits_BV.device).log()).log()).argmax(dim=1, keepdim=True)
            routed = self.extend(token_B1, cache)
            drawn.append(token_B1)
            read.append(routed.hidden)
        self.train(training)
        return torch.cat(drawn, dim=1), torch.cat(read, dim=1)

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
        device = self.head.table.device
        kept = {name: part.start(batch, device) for name, part in self._parts()}
        timeline = Timeline(batch, capacity, device)
        return Cache(timeline, {KIND: self.backbone.start(batch, capacity)} | kept, _NoRouter(None, RunningMean()))

    def steer(self, cache: Cache, dials: Dials) -> None:
        """Turn the dials of a cache, for all that it will read."""
        for name, part in self._parts():
            part.steer(cache.experts[name], dials)

    @property
    def remembers(self) -> bool:
        """Whether anything is kept of a text that has left the window."""
        return any(part.remembers for _, part in self._parts())

    @torch.no_grad()
    def fold(self, tokens_T: Tensor, kept: Carried) -> Carried:
        """What the parts keep of a text behind what they `kept` of all before it; the backbone is not asked."""
        tokens_1T = tokens_T[None].to(self.head.table.device)
        cache = self.start(1, tokens_1T.shape[1])
        self.carry(cache, kept)
        span, x_BTD = cache.timeline.append(torch.zeros_like(tokens_1T)), self.head.embed(tokens_1T)
        for name, part in self._parts():
            x_BTD = part.extend_read(x_BTD, tokens_1T, span, cache.experts[name])
        return {name: part.carried(cache.experts[name]) for name, part in self._parts() if part.remembers}

    def carry(self, cache: Cache, kept: Carried) -> None:
        """Let an empty cache of one row begin behind a text of which that was kept; nothing: behind none."""
        for name, part in self._parts():
            if name in kept:
                part.carry(cache.experts[name], kept[name])

    @torch.no_grad()
    def extend(self, tokens_BT: Tensor, cache: Cache, documents_BT: Tensor | None = None) -> Routed:
        """What `forward` over all that the cache has read would give for T new tokens; documents as in `NanoThink`."""
        if documents_BT is None:
            documents_BT = cache.timeline.number(tokens_BT, self.start_token)
        span, x_BTD = cache.timeline.append(documents_BT), self.head.embed(tokens_BT)
        for name, part in self._parts():
            x_BTD = part.extend_read(x_BTD, tokens_BT, span, cache.experts[name])
        said = one_voice(self.backbone.extend(x_BTD, span, cache.experts[KIND]))
        for name, part in self._parts():
            said = part.extend_speak(said, span, cache.experts[name])
        return Routed(*said)

    @torch.no_grad()
    def advance(self, tokens_R: Tensor, rows: Rows, cache: Cache) -> Routed:
        """What `extend` would give for one new token of each of R rows, which have joined the cache: (R, 1, ...)."""
        x_RD = self.head.embed(tokens_R)
        for name, part in self._parts():
            x_RD = part.advance_read(x_RD, tokens_R, rows, cache.experts[name])
        said = one_voice(self.backbone.advance(x_RD, rows, cache.experts[KIND]))
        for name, part in self._parts():
            said = part.advance_speak(said, rows, cache.experts[name])
        return Routed(*(kind[:, None] for kind in said))

    def _start_index(self) -> Tensor:
        return torch.tensor([self.start_token], device=self.head.table.device)

    def _read(self, tokens_BT: Tensor, documents_BT: Tensor, seen_BT: Tensor) -> Tensor:
        """The backbone's hidden states, (B, T, D), of documents as the parts and as the backbone itself sees them."""
        return self.backbone(self.embed(tokens_BT, documents_BT), seen_BT)

    def _speak(self, hidden_BTD: Tensor, documents_BT: Tensor, dials: Dials) -> Routed:
        said: Voices = one_voice(hidden_BTD)
        for _, part in self._parts():
            said = part.speak(said, documents_BT, dials)
        return Routed(*said)

    def _parts(self) -> Iterable[tuple[str, Part]]:
        return self.parts.items()  # type: ignore[return-value]


class _NoRouter(RouterCache):
    """What is kept for a router that is not there."""

    def join(self, one: RouterCache, slot: Slot) -> None:
        """Nothing is kept, and nothing joins it."""


Model = NanoThink | Chat
"""Whatever can be read, written with, scored and served."""


def remembers(model: Model) -> bool:
    """Whether a model keeps anything of a text that has left its window: a mixture does not."""
    return isinstance(model, Chat) and model.remembers


def dials_of(model: Model) -> list[str]:
    """What a request to a model may steer: of a mixture, nothing."""
    return model.dials if isinstance(model, Chat) else []


def tells_of(model: Model) -> list[str]:
    """The names of `figures_of`."""
    return model.tells if isinstance(model, Chat) else []


def figures_of(model: Model, routed: Routed) -> dict[str, Tensor]:
    """The figures that a model's parts tell of each position, (B, T) each: of a mixture, none."""
    return model.judge(routed) if isinstance(model, Chat) else {}


def start_steered(model: Model, batch: int, capacity: int, dials: Dials) -> Cache:
    """An empty cache of a model, its dials turned."""
    cache = model.start(batch, capacity)
    if dials:
        assert isinstance(model, Chat), f"nothing to steer by {sorted(dials)}"
        model.steer(cache, dials)
    return cache


def build_chat(shape: ChatShape, head: LanguageHead | None = None) -> Chat:
    """The chat model of this shape, freshly initialised; the head is empty unless given."""
    head = head or LanguageHead(torch.zeros(shape.vocabulary, shape.width), torch.zeros(shape.vocabulary))
    backbone = build_expert(KIND, shape.backbone, shape.width)
    assert isinstance(backbone, Transformer)
    return Chat(head, backbone, shape.start_token, build_parts(shape.parts, shape))


def build_parts(parts: dict[str, PartConfig], shape: ChatShape) -> dict[str, Part]:
    """The parts of a model of this shape, freshly initialised."""
    return {name: build_part(name, config, shape.width, shape.vocabulary) for name, config in parts.items()}


def switch_on(model: Chat, shape: ChatShape, parts: dict[str, PartConfig]) -> ChatShape:
    """Give a model, in place, the parts that it has not got, as they are before they have learned; its new shape.

    Those that it has stay as they are, settings included.
    """
    both = parts | shape.parts
    fresh = build_parts({name: config for name, config in both.items() if name not in shape.parts}, shape)
    model.parts = nn.ModuleDict({name: fresh.get(name) or model.parts[name] for name in PARTS if name in both})
    return replace(shape, parts={name: both[name] for name in PARTS if name in both})
