"""Small heads that tell figures of a hidden state.

D model width, F inner width, O figures
"""

from torch import Tensor, nn
from torch.nn.functional import silu

from nano_think.nn.linear import linear
from nano_think.nn.norm import RMSNorm


class FiguresHead(nn.Module):
    """V SiLU(U RMSNorm(h)) + b: (..., D) -> (..., O), all 0 at first."""

    def __init__(self, width: int, inner: int, figures: int):
        super().__init__()
        self.norm = RMSNorm(width)
        self.up, self.down = linear(width, inner), nn.Linear(inner, figures)
        nn.init.zeros_(self.down.weight), nn.init.zeros_(self.down.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.down(silu(self.up(self.norm(hidden)))).float()


def touch(hidden: Tensor, share: float) -> Tensor:
    """The same numbers, through which a share of the gradient passes: with 0 whoever reads them only looks on."""
    seen = hidden.detach()
    return seen + share * (hidden - seen) if share else seen
