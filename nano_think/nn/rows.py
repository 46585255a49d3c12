"""The parts of a layer's step: one new token for each of a few rows, of texts that stand at different places.

A step reads every weight and does little with it, so what counts is that weights are read once for all rows and that
few operations are called: each function here is one, by the compiled kernel on a CPU where there is one, else by its
plain twin. The kernels sum in an order that does not depend on the other rows: a row's bits are those that it has
alone.

R rows, K inputs, O outputs, D model width, N heads, H head width, S places of a cache
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from nano_think.nn.cache import KeyValues, Rows
from nano_think.nn.mlp import swiglu_plainly
from nano_think.nn.native import kernels, ops
from nano_think.nn.norm import EPS
from nano_think.nn.rope import rotate

Rope = tuple[Tensor, Tensor]


def linear_rows(
    x_RK: Tensor,
    weight_OK: Tensor,
    norm: nn.RMSNorm | None = None,
    scale_SK: Tensor | None = None,
    add_RO: Tensor | None = None,
    gate: bool = False,
) -> Tensor:
    """add + W (1 + scale) norm(x), (R, O); with `gate` the first half of the outputs gates the second as in SwiGLU,
    (R, O / 2).

    scale_SK: for S equal shares of the rows, which follow each other.
    """
    w_K = None if norm is None else norm.weight
    if by_kernel(x_RK, weight_OK, w_K, scale_SK, add_RO):
        return ops.linear_rows(x_RK, weight_OK, w_K, scale_SK, add_RO, gate, EPS)
    return linear_rows_plainly(x_RK, weight_OK, norm, scale_SK, add_RO, gate)


def linear_rows_plainly(
    x_RK: Tensor,
    weight_OK: Tensor,
    norm: nn.RMSNorm | None = None,
    scale_SK: Tensor | None = None,
    add_RO: Tensor | None = None,
    gate: bool = False,
) -> Tensor:
    """The kernel's twin."""
    x_RK = x_RK if norm is None else norm(x_RK)
    if scale_SK is not None:
        x_RK = x_RK * (1 + scale_SK.repeat_interleave(len(x_RK) // len(scale_SK), dim=0))
    y_RO = linear(x_RK, weight_OK)
    y_RO = swiglu_plainly(y_RO) if gate else y_RO
    return y_RO if add_RO is None else add_RO + y_RO


def place_heads(
    qkv_RE: Tensor, norm_q: nn.Module, norm_k: nn.Module, rope: Rope, rows: Rows, kept: KeyValues
) -> Tensor:
    """Queries, (R, N, H), out of one row [q; k; v] per token; keys and values go to their places. As `split_heads`:
    queries and keys are normalised per head and turned by RoPE.
    """
    keys, values = kept.all()
    weight_q, weight_k = (getattr(norm, "weight", None) for norm in (norm_q, norm_k))
    if by_kernel(qkv_RE, weight_q, weight_k, *rope, keys, values):
        return ops.place_heads(qkv_RE, weight_q, weight_k, *rope, rows.at_3R, keys, values, EPS)
    return place_heads_plainly(qkv_RE, norm_q, norm_k, rope, rows, kept)


def place_heads_plainly(
    qkv_RE: Tensor, norm_q: nn.Module, norm_k: nn.Module, rope: Rope, rows: Rows, kept: KeyValues
) -> Tensor:
    """The kernel's twin."""
    keys, values = kept.all()
    q, k, v = qkv_RE.unflatten(-1, (3, keys.shape[1], -1)).unbind(1)
    turn = rope[0][rows.place_R, None], rope[1][rows.place_R, None]
    q, k = rotate(norm_q(q.float()), turn), rotate(norm_k(k.float()), turn)
    keys[rows.slot_R, :, rows.place_R], values[rows.slot_R, :, rows.place_R] = k.to(keys.dtype), v.to(values.dtype)
    return q.to(qkv_RE.dtype)


def attend_rows(q_RNH: Tensor, keys: Tensor, values: Tensor, rows: Rows, scale: float) -> Tensor:
    """softmax(scale q k^T) v of each row over what it sees in its slot, (R, N, V).

    keys (slots, N, S, H) and values (slots, N, S, V); heads that share them are given by `expand`.
    """
    if by_kernel(q_RNH, keys, values):
        return ops.attend_rows(q_RNH, keys, values, rows.sight_3R, scale)
    return attend_rows_plainly(q_RNH, keys, values, rows, scale)


def attend_rows_plainly(q_RNH: Tensor, keys: Tensor, values: Tensor, rows: Rows, scale: float) -> Tensor:
    """The kernel's twin: every score is written out."""
    _, last_R, begin_R = rows.sight_3R
    place_S = torch.arange(rows.end, device=q_RNH.device)
    seen_RS = (place_S >= begin_R[:, None]) & (place_S <= last_R[:, None])
    keys_RNSH, values_RNSV = (kept[rows.slot_R, :, : rows.end].to(q_RNH.dtype) for kept in (keys, values))
    score_RNS = (keys_RNSH @ q_RNH[..., None])[..., 0] * scale
    weight_RNS = score_RNS.masked_fill(~seen_RS[:, None], float("-inf")).softmax(dim=-1)
    return (weight_RNS[..., None, :] @ values_RNSV)[..., 0, :]


def by_kernel(*tensors: Tensor | None) -> bool:
    """Whether there are kernels for these: fp32 on a CPU."""
    fitting = all(x is None or (x.dtype == torch.float32 and x.device.type == "cpu") for x in tensors)
    return fitting and kernels().there
