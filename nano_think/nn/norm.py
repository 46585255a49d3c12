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

    def forward(self, x: Tensor, for_product: bool = False) -> Tensor:
        """`for_product`: in the precision that autocast, where it is on, gives the matrix products that read it."""
        dtype = product_dtype(x) if for_product else x.dtype
        half = dtype == torch.bfloat16
        if have_kernel(x) and self.weight.dtype == torch.float32 and (half or dtype == x.dtype):
            return ops.rms_norm(x, self.weight, EPS, half)
        return super().forward(x).to(dtype)


def product_dtype(x: Tensor) -> torch.dtype:
    """The precision in which a matrix product reads x."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
