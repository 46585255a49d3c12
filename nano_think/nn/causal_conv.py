"""The short causal convolution before a scan, with its SiLU, and what it and the scan remember between two calls.

B batch, T tokens, I channels, K taps
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from nano_think.nn.cache import Span
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
    convolution, (B, taps - 1, I), and the state of its scan.
    """

    def __init__(self) -> None:
        self.tail_BTI: Tensor | None = None
        self.state: Tensor | None = None

    def convolve(self, conv: CausalConv, x_BTI: Tensor, span: Span) -> Tensor:
        """The convolution at the new tokens, whose first ones still see the last tokens read before, (B, T, I)."""
        x = x_BTI if self.tail_BTI is None else torch.cat([self.tail_BTI, x_BTI], dim=1)
        self.tail_BTI = x[:, max(0, x.shape[1] - len(conv.weight) + 1) :]
        return conv(x, span.documents_BS[:, -x.shape[1] :])[:, -x_BTI.shape[1] :]
