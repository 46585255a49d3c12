"""Floor 2: the experts. One file here is one expert: its Config and its class, registered under its name.

Everything else (flags, router width, the flow, tests, the report) grows from `EXPERTS`.

B batch, T tokens, D model width, R rows of a step
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nano_think.core.config import Config
from nano_think.core.registry import Registry
from nano_think.heads.language import LanguageHead
from nano_think.nn.cache import Rows, Slot, Span
from nano_think.nn.documents import number_documents

EXPERTS: "Registry[type[Expert]]" = Registry("expert", "nano_think.experts")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpertConfig(Config):
    """What every expert can be asked; each expert's own Config adds its shape."""

    n_layers: int = 4
    """Layers."""
    dropout: float = 0.0
    """Share of a residual branch's output that is zeroed while training (0 to 1)."""

    def __post_init__(self) -> None:
        self.at_least(1, "n_layers")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: wanted a share from 0 up to 1, got {self.dropout}")


class Expert(nn.Module):
    """A causal language model in the shared space: embeddings in, hidden states of the shared head out.

    `forward(x_BTD, documents_BT)` returns h, (B, T, D); h[:, t] speaks of token t + 1 and depends on the tokens 0 to t
    of its own document alone (`documents_BT` numbers them). Subclasses set `Config` and take (config, width).

    `start` and `extend` are `forward` in pieces, behind a cache, and `advance` is the same for texts of different
    lengths, each in a slot that its cache was put into by `join`; a cache's `rewind` takes tentative tokens back. An
    expert that brings none of these is computed anew over everything read so far.
    """

    Config: ClassVar[type[ExpertConfig]]

    def forward(self, x_BTD: Tensor, documents_BT: Tensor) -> Tensor:
        raise AssertionError(f"{type(self).__name__} has no forward")

    def start(self, batch: int, capacity: int) -> Any:
        """An empty cache for `batch` rows of at most `capacity` tokens, to be given to `extend` alone."""
        return Replay()

    def extend(self, x_BTD: Tensor, span: Span, cache: Any) -> Tensor:
        """What `forward` over all that the cache has read would give for the T new tokens, (B, T, D)."""
        return cache.extend(self, x_BTD, span)

    def advance(self, x_RD: Tensor, rows: Rows, cache: Any) -> Tensor:
        """What `extend` would give for one new token of each of R rows, (R, D), each behind its slot of the cache."""
        return cache.advance(self, x_RD, rows)

    def cases(self) -> Iterator[float]:
        """For counting what a training costs: settle what `losses` draws about how much it computes, one case after
        another, and yield how often each of them is drawn (shares that sum to 1). Afterwards all is as it was.
        """
        yield 1.0

    def losses(self, tokens_BT1: Tensor, start_token: int, head: LanguageHead) -> dict[str, Tensor]:
        """The named terms of the training loss, in nats per token, already weighted: they are summed.

        tokens_BT1: windows of T + 1 ids. The default is the next-token loss of `forward`.
        """
        inputs_BT, targets_BT = tokens_BT1[:, :-1], tokens_BT1[:, 1:]
        hidden_BTD = self(head.embed(inputs_BT), number_documents(inputs_BT, start_token))
        return {"next_token": head.mean_nll(hidden_BTD, targets_BT, targets_BT != start_token)}


class Replay:
    """The cache that saves nothing, and the plain twin of all others: inputs, read again from the first."""

    def __init__(self) -> None:
        self.x_BSD: Tensor | None = None
        self.slots: dict[int, Tensor] = {}

    def extend(self, expert: Expert, x_BTD: Tensor, span: Span) -> Tensor:
        self.x_BSD = x_BTD if self.x_BSD is None else torch.cat([self.x_BSD, x_BTD], dim=1)
        return expert(self.x_BSD, span.documents_BS)[:, span.first :]

    def join(self, one: "Replay", slot: Slot) -> None:
        assert one.x_BSD is not None, "nothing has been read"
        self.slots[slot.number] = one.x_BSD

    def rewind(self, tokens: int) -> None:
        """What is read again from its own place on needs no taking back."""

    def advance(self, expert: Expert, x_RD: Tensor, rows: Rows) -> Tensor:
        return torch.cat([self._advance(expert, *row) for row in zip(x_RD, *rows.at_3R.tolist(), strict=True)])

    def _advance(self, expert: Expert, x_D: Tensor, slot: int, place: int, begin: int) -> Tensor:
        x_1SD = torch.cat([self.slots[slot][:, :place], x_D[None, None]], dim=1)
        self.slots[slot] = x_1SD
        documents_1S = (torch.arange(place + 1, device=x_D.device) >= begin).long()[None]
        return expert(x_1SD, documents_1S)[:, -1]


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the values where the mask is true; 0 where it never is. A start token is never a target."""
    return (values * mask).sum() / mask.sum().clamp_min(1)


def count_parameters(module: nn.Module) -> int:
    """Numbers in a module's parameters, frozen ones too."""
    return sum(parameter.numel() for parameter in module.parameters())


def kind_of(name: str) -> str:
    """The kind of the expert called `name`: its name, and of a further one of a kind, "transformer_2", what stands
    before the number.
    """
    before, _, number = name.rpartition("_")
    return before if number.isdecimal() and int(number) > 1 and name not in EXPERTS else name


def build_expert(name: str, config: ExpertConfig, width: int) -> Expert:
    """The expert called `name`, freshly initialised from torch's global generator."""
    return EXPERTS[kind_of(name)](config, width)  # type: ignore[call-arg]
