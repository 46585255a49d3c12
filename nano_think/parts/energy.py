"""A head that tells the model's own writing from what was written: an energy on top of its likelihood.

The residual energy-based model of Deng et al. 2020: P(x) ~ P_LM(x) exp(-E(x)), trained by noise-contrastive estimation
against what the model itself writes after the same beginning.

B batch, T tokens, N tokens that are told apart, D model width
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import softplus

from nano_think.heads.figures import FiguresHead, touch
from nano_think.parts import PARTS, Lesson, Part, PartConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class EnergyConfig(PartConfig):
    """An energy of what is written."""

    length: int = 16
    """Tokens that the model writes in the middle of each window, to be told from those that stand there (tokens)."""
    inner: int = 0
    """Inner width of the head; 0 is the model width (channels)."""
    weight: float = 0.1
    """Weight of its loss (a factor)."""
    touch: float = 0.0
    """Share of the gradient of what stands there that reaches the model; with 0 the head only looks on (0 to 1)."""

    def __post_init__(self) -> None:
        if self.length < 1 or self.inner < 0:
            raise ValueError(f"length and inner: wanted at least 1 and 0, got {self.length} and {self.inner}")
        if not (self.weight >= 0 and 0 <= self.touch <= 1):
            raise ValueError(f"weight and touch: wanted 0 or more and 0 to 1, got {self.weight} and {self.touch}")


@PARTS.register("energy")
class Energy(Part):
    """h of a token -> its energy; that of a text is the mean over its tokens. Low is like what was written."""

    Config = EnergyConfig
    tells = ("energy",)

    def __init__(self, config: EnergyConfig, width: int, vocabulary: int):
        super().__init__()
        self.config = config
        self.head = FiguresHead(width, config.inner or width, 1)

    def judge(self, hidden: Tensor) -> dict[str, Tensor]:
        """The energy of the token at each position, (...) (nats)."""
        return {"energy": self.head(hidden)[..., 0]}

    def losses(self, lesson: Lesson) -> dict[str, Tensor]:
        """-ln sigmoid(-E(x+)) - ln sigmoid(E(x-)) of the text x+ of each window and the model's own x-, weighed by the
        targets of the window that count. Windows whose x+ holds the start of a document do not count.
        """
        first = lesson.inputs_BT.shape[1] // 2
        N = min(self.config.length, lesson.inputs_BT.shape[1] - first)
        _, own_BND = lesson.write(lesson.inputs_BT[:, :first], N)
        real_BND = touch(lesson.hidden_BTD[:, first : first + N], self.config.touch)
        loss_B = softplus(self._of_text(real_BND)) + softplus(-self._of_text(own_BND.detach()))
        whole_B = lesson.every_BT[:, first - 1 : first + N - 1].all(dim=1)
        counted_B = lesson.learned_BT.sum(dim=1) * whole_B
        return {"contrast": self.config.weight * (loss_B * counted_B).sum() / lesson.learned_BT.sum().clamp_min(1)}

    def _of_text(self, hidden_BND: Tensor) -> Tensor:
        """(B)."""
        return self.head(hidden_BND)[..., 0].mean(dim=1)
