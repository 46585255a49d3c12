"""Feed-forward layers. B batch, T tokens, D model width, F inner width."""

from torch import Tensor, nn
from torch.nn.functional import silu

from nano_think.nn.linear import linear
from nano_think.nn.native import have_kernel, ops


class SwiGLU(nn.Module):
    """(SiLU(x W_gate) * x W_up) W_down (Shazeer 2020, eq. 6): (B, T, D) -> (B, T, D)."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.gate_up = linear(width, 2 * inner)
        self.down = linear(inner, width, zero=True)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down(swiglu(self.gate_up(x_BTD)))


def swiglu(gate_up: Tensor) -> Tensor:
    """SiLU(gate) * up of gates and as many others behind them, (..., 2 F) -> (..., F).

    By the compiled kernel on a CPU where there is one, which rounds once; else by `swiglu_plainly`.
    """
    return ops.swiglu(gate_up) if have_kernel(gate_up) else swiglu_plainly(gate_up)


def swiglu_plainly(gate_up: Tensor) -> Tensor:
    """The kernel's twin."""
    gate, up = gate_up.chunk(2, dim=-1)
    return silu(gate) * up
