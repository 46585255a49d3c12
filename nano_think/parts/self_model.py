"""A head that predicts how well the model itself will predict: its own mean loss over the next tokens.

B batch, T tokens, D model width
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nano_think.heads.figures import FiguresHead, touch
from nano_think.nn.documents import mean_ahead
from nano_think.parts import PARTS, Lesson, Part, PartConfig

# No spread below a hundredth of a nat, and none beyond all sense.
NARROWEST, WIDEST = math.log(0.01), math.log(10.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class SelfModelConfig(PartConfig):
    """A prediction of the model's own loss, with its spread."""

    horizon: int = 32
    """Tokens whose mean loss is predicted; fewer where the document or the window ends (tokens)."""
    inner: int = 0
    """Inner width of the head; 0 is the model width (channels)."""
    weight: float = 0.1
    """Weight of its loss (a factor)."""
    touch: float = 0.0
    """Share of the gradient that reaches the model; with 0 the head only looks on (0 to 1)."""

    def __post_init__(self) -> None:
        if self.horizon < 1 or self.inner < 0:
            raise ValueError(f"horizon and inner: wanted at least 1 and 0, got {self.horizon} and {self.inner}")
        if not (self.weight >= 0 and 0 <= self.touch <= 1):
            raise ValueError(f"weight and touch: wanted 0 or more and 0 to 1, got {self.weight} and {self.touch}")


@PARTS.register("self_model")
class SelfModel(Part):
    """h -> a normal distribution of the mean loss over the next tokens: ln(V) sigmoid(m) plus or minus exp(s) nats."""

    Config = SelfModelConfig
    tells = ("expected_loss", "expected_spread")

    def __init__(self, config: SelfModelConfig, width: int, vocabulary: int):
        super().__init__()
        self.config, self.most = config, math.log(vocabulary)
        self.head = FiguresHead(width, config.inner or width, 2)

    def judge(self, hidden: Tensor) -> dict[str, Tensor]:
        """The expected loss and its spread, (...) each (nats per token)."""
        mean, log_spread = self._predict(hidden)
        return {"expected_loss": mean, "expected_spread": log_spread.exp()}

    def losses(self, lesson: Lesson) -> dict[str, Tensor]:
        """-ln N(loss that came; mean, spread), up to a constant."""
        with torch.no_grad():
            nll_BT = lesson.head.nll(lesson.hidden_BTD, lesson.targets_BT).float()
            came_BT, known_BT = coming_loss(nll_BT, lesson.every_BT, lesson.documents_BT, self.config.horizon)
        mean_BT, log_spread_BT = self._predict(touch(lesson.hidden_BTD, self.config.touch))
        surprise_BT = 0.5 * ((came_BT - mean_BT) / log_spread_BT.exp()) ** 2 + log_spread_BT
        count = lesson.learned_BT.sum().clamp_min(1)
        return {"surprise": self.config.weight * lesson.tally(surprise_BT, known_BT) / count}

    def _predict(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        m, s = self.head(hidden).unbind(-1)
        return self.most * m.sigmoid(), s.clamp(NARROWEST, WIDEST)


def coming_loss(nll_BT: Tensor, counted_BT: Tensor, documents_BT: Tensor, horizon: int) -> tuple[Tensor, Tensor]:
    """The mean loss over the next `horizon` targets of each position, as far as its document and the window go, (B, T);
    and where there is any, (B, T). counted_BT is False for targets that belong to another document.
    """
    mean_BT1, known_BT = mean_ahead(nll_BT[..., None], counted_BT, documents_BT, horizon)
    return mean_BT1[..., 0], known_BT
