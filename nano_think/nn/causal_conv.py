"""The short causal convolution before a scan, with its SiLU, and what it and the scan remember between two calls.

B batch, T tokens, I channels, K taps, R rows of a step
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from nano_think.nn.cache import Rows, Slot, Span, Trail
from nano_think.nn.documents import document_changes
from nano_think.nn.native import kernels, ops


class CausalConv(nn.Module):
    """SiLU of a depthwise convolution over the last `taps` tokens of the same document: (B, T, I) -> (B, T, I)."""

    def __init__(self, channels: int, taps: int = 4):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(taps, channels).uniform_(-(taps**-0.5), taps**-0.5))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x_BTI: Tensor, documents_BT: Tensor) -> Tensor:
        return causal_conv_silu(x_BTI, self.weight, self.bias, documents_BT)


def causal_conv_silu(x_BTI: Tensor, weight_KI: Tensor, bias_I: Tensor, documents_BT: Tensor) -> Tensor:
    """y_t = SiLU(b + sum over k < K of w_k x_{t-k}), the x of other documents left out, in fp32: (B, T, I).

    By the compiled kernel on a CPU where there is one, else by `convolve_plainly`.
    """
    if x_BTI.device.type == "cpu" and weight_KI.dtype == torch.float32 and kernels().there:
        return ops.causal_conv_silu(x_BTI.float(), weight_KI, bias_I, document_changes(documents_BT))
    return silu(convolve_plainly(x_BTI.to(weight_KI.dtype), weight_KI, bias_I, documents_BT))


def convolve_plainly(x_BTI: Tensor, weight_KI: Tensor, bias_I: Tensor, documents_BT: Tensor) -> Tensor:
    """The convolution before its SiLU, tap by tap: the kernel's twin."""
    y_BTI = x_BTI * weight_KI[0] + bias_I
    for back in range(1, min(len(weight_KI), x_BTI.shape[1])):
        same_BT = documents_BT[:, back:] == documents_BT[:, :-back]
        earlier_BTI = pad(x_BTI[:, :-back] * same_BT[..., None], (0, 0, back, 0))
        y_BTI = y_BTI + earlier_BTI * weight_KI[back]
    return y_BTI


class ScanState:
    """What one state-space layer keeps of everything it has read, whatever its length: the last inputs of its
    convolution, (B, taps - 1, I) or fewer, and the state of its scan.
    """

    def __init__(self, taps: int) -> None:
        self.taps = taps
        self.tail_BTI: Tensor | None = None
        self.state: Tensor | None = None
        self._trail = Trail()

    def join(self, one: "ScanState", slot: Slot) -> None:
        """Keep in a slot what a state of one row has read; of a text with fewer tokens than taps, zeros before it."""
        tail_1TI, state = one.kept()
        if self.tail_BTI is None:
            self.tail_BTI, self.state = slot.room_like(tail_1TI, 1, self.taps - 1), slot.room_like(state)
        mine_BTI, states = self.kept()
        mine_BTI[slot.number] = pad(tail_1TI[0], (0, 0, self.taps - 1 - tail_1TI.shape[1], 0))
        states[slot.number] = state[0]

    def kept(self) -> tuple[Tensor, Tensor]:
        """The last inputs, (B, taps - 1, I), and the scan's state."""
        assert self.tail_BTI is not None and self.state is not None, "nothing has been read"
        return self.tail_BTI, self.state

    def in_turn(self, step: Callable[[Tensor, Rows], Tensor], x_RI: Tensor, rows: Rows) -> Tensor:
        """`step` of rows; of tentative rows one after another, so that `rewind` can take them back."""
        return self._trail.in_turn(step, x_RI, rows, self.kept())

    def rewind(self, tokens: int) -> None:
        """Take the last tentative tokens back."""
        self._trail.rewind(tokens, self.kept())

    def convolve_rows(self, conv: CausalConv, x_RI: Tensor, rows: Rows) -> Tensor:
        """The convolution at one new token of each of R rows, (R, I)."""
        tail_BTI, _ = self.kept()
        x_RKI = torch.cat([tail_BTI[rows.slot_R], x_RI[:, None]], dim=1)
        tail_BTI[rows.slot_R] = x_RKI[:, 1:]
        back_K = torch.arange(self.taps - 1, -1, -1, device=x_RI.device)
        own_RK = back_K <= (rows.place_R - rows.at_3R[2])[:, None]
        return silu((x_RKI * own_RK[..., None] * conv.weight.flip(0)).sum(dim=1) + conv.bias)

    def convolve(self, conv: CausalConv, x_BTI: Tensor, span: Span) -> Tensor:
        """The convolution at the new tokens, whose first ones still see the last tokens read before, (B, T, I)."""
        x = x_BTI if self.tail_BTI is None else torch.cat([self.tail_BTI, x_BTI], dim=1)
        self.tail_BTI = x[:, max(0, x.shape[1] - len(conv.weight) + 1) :]
        return conv(x, span.documents_BS[:, -x.shape[1] :])[:, -x_BTI.shape[1] :]
