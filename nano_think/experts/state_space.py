"""The state-space expert: a recurrent state of constant size per token.

B batch, T tokens, D model width
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor, nn

from nano_think.experts import EXPERTS, Expert, ExpertConfig
from nano_think.nn.cache import Rows, Slot, Span
from nano_think.nn.causal_conv import ScanState
from nano_think.nn.linear import linear
from nano_think.nn.norm import RMSNorm
from nano_think.nn.rows import linear_rows
from nano_think.nn.s6 import S6Mixer
from nano_think.nn.ssm import StateSpaceMixer


@dataclass(frozen=True, kw_only=True, slots=True)
class StateSpaceConfig(ExpertConfig):
    """A stack of selective state-space mixers."""

    form: Literal["ssd", "s6"] = "ssd"
    """Mamba-2's scan (one decay per head of channels, matrix products) or Mamba's (every state of every channel decays
    by itself; on a CPU by a kernel that is compiled at the first use)."""
    inner: int = 256
    """Inner width (channels)."""
    n_state: int = 16
    """State per channel (numbers)."""
    head_width: int = 32
    """Only for "ssd": channels that share one decay (channels)."""
    taps: int = 4
    """Length of the causal convolution (tokens)."""
    chunk: int = 32
    """Only for "ssd": tokens that the scan handles in one matrix product; speed and memory, not the result (tokens)."""
    rank: int = 0
    """Only for "s6": numbers that the steps of all channels are made from; 0 is a sixteenth of the model width
    (numbers)."""

    def __post_init__(self) -> None:
        ExpertConfig.__post_init__(self)
        self.at_least(1, "inner", "n_state", "head_width", "taps", "chunk")
        self.at_least(0, "rank")


@EXPERTS.register("state_space")
class StateSpace(Expert):
    """x + mixer(RMSNorm(x)), layer after layer: (B, T, D) -> (B, T, D)."""

    Config = StateSpaceConfig

    def __init__(self, config: StateSpaceConfig, width: int):
        super().__init__()
        self.mixers = nn.ModuleList(_build_mixer(config, width) for _ in range(config.n_layers))
        self.norms = nn.ModuleList(RMSNorm(width) for _ in range(config.n_layers))
        self.dropout = nn.Dropout(config.dropout)
        self.norm = RMSNorm(width)
        self.out = linear(width, width, zero=True)

    def forward(self, x_BTD: Tensor, documents_BT: Tensor) -> Tensor:
        for norm, mixer in zip(self.norms, self.mixers, strict=True):
            x_BTD = x_BTD + self.dropout(mixer(norm(x_BTD), documents_BT))
        return self.out(self.norm(x_BTD))

    def start(self, batch: int, capacity: int) -> "StateSpaceCache":
        return StateSpaceCache([ScanState(len(mixer.conv.weight)) for mixer in self.mixers])  # type: ignore

    def extend(self, x_BTD: Tensor, span: Span, cache: "StateSpaceCache") -> Tensor:
        for norm, mixer, state in zip(self.norms, self.mixers, cache.layers, strict=True):
            x_BTD = x_BTD + mixer.extend(norm(x_BTD), span, state)  # type: ignore[operator]
        return self.out(self.norm(x_BTD))

    def advance(self, x_RD: Tensor, rows: Rows, cache: "StateSpaceCache") -> Tensor:
        for norm, mixer, state in zip(self.norms, self.mixers, cache.layers, strict=True):
            x_RD = mixer.advance(x_RD, norm, rows, state)  # type: ignore[operator]
        return linear_rows(x_RD, self.out.weight, self.norm)


class StateSpaceCache(NamedTuple):
    """The states by layer."""

    layers: list[ScanState]

    def join(self, one: "StateSpaceCache", slot: Slot) -> None:
        for mine, other in zip(self.layers, one.layers, strict=True):
            mine.join(other, slot)

    def rewind(self, tokens: int) -> None:
        """Take the last tentative tokens back."""
        for layer in self.layers:
            layer.rewind(tokens)


def _build_mixer(config: StateSpaceConfig, width: int) -> nn.Module:
    if config.form == "s6":
        return S6Mixer(width, config.inner, config.n_state, config.rank or -(-width // 16), config.taps)
    return StateSpaceMixer(width, config.inner, config.n_state, config.head_width, config.taps, config.chunk)
