"""From one row per token to heads that can attend.

B batch, T tokens, N heads, H head width, D model width (D = N * H), E = 3 * D
"""

import torch
from torch import Tensor, nn

from nano_think.nn.native import have_kernel, ops
from nano_think.nn.norm import EPS
from nano_think.nn.rope import rotate


def split_heads(
    qkv_BTE: Tensor, n_heads: int, norm_q: nn.Module, norm_k: nn.Module, rope: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, (B, N, T, H) each; queries and keys RMS-normalised per head and turned by RoPE.

    Norms and turns are computed in fp32 and rounded once. By the compiled kernel on a CPU where there is one, else by
    `split_heads_plainly`. A norm without a weight (`nn.Identity`) leaves its heads as they are.
    """
    weight_q, weight_k = (getattr(norm, "weight", None) for norm in (norm_q, norm_k))
    exact = all(x is None or x.dtype == torch.float32 for x in (weight_q, weight_k, *rope))
    if have_kernel(qkv_BTE) and exact:
        return ops.split_heads(qkv_BTE, n_heads, weight_q, weight_k, *rope, EPS)
    return split_heads_plainly(qkv_BTE, n_heads, norm_q, norm_k, rope)


def split_heads_plainly(
    qkv_BTE: Tensor, n_heads: int, norm_q: nn.Module, norm_k: nn.Module, rope: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """The kernel's twin."""
    q, k, v = qkv_BTE.unflatten(-1, (3, n_heads, -1)).permute(2, 0, 3, 1, 4)
    q, k = rotate(norm_q(q.float()), rope), rotate(norm_k(k.float()), rope)
    return q.to(v.dtype), k.to(v.dtype), v
