"""Feed-forward layers. B batch, T tokens, D model width, F inner width."""

from torch import Tensor, nn
from torch.nn.functional import silu

from nano_think.nn.linear import linear


class SwiGLU(nn.Module):
    """(SiLU(x W_gate) * x W_up) W_down (Shazeer 2020, eq. 6): (B, T, D) -> (B, T, D)."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.gate_up = linear(width, 2 * inner)
        self.down = linear(inner, width, zero=True)

    def forward(self, x_BTD: Tensor) -> Tensor:
        gate_BTF, up_BTF = self.gate_up(x_BTD).chunk(2, dim=-1)
        return self.down(silu(gate_BTF) * up_BTF)
