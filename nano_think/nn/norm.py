"""The norm before a layer."""

import torch
from torch import Tensor, nn

from nano_think.nn.native import have_kernel, ops

# What torch adds to the mean square of fp32 and bf16 numbers where nothing is said.
EPS = torch.finfo(torch.float32).eps


class RMSNorm(nn.RMSNorm):
    """w x / sqrt(mean(x^2) + eps) over the last dimension (Zhang and Sennrich 2019, eq. 4), in x's precision.

    By the compiled kernel on a CPU where there is one, else by torch.
    """

    def forward(self, x: Tensor) -> Tensor:
        if have_kernel(x) and self.weight.dtype == torch.float32:
            return ops.rms_norm(x, self.weight, EPS)
        return super().forward(x)
