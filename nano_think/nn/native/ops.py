"""The kernels as torch operators: their shapes for the compiler, and their gradients.

B batch, T tokens, I channels, N states per channel, K taps or parts; S rows, V words, D model width, F inner
width, H head width
"""

import torch
from torch import Tensor

# As in selective_scan.cpp: tokens between two kept states, and what the channels of kept states are padded to.
CHUNK, PADDED = 16, 16


def register() -> None:
    """Tell torch of the operators' shapes and gradients; once, after the library is loaded."""
    library = torch.library
    library.register_fake("nano_think::selective_scan", _scan_shapes)
    library.register_fake("nano_think::selective_scan_backward", _scan_backward_shapes)
    library.register_autograd("nano_think::selective_scan", _scan_backward, setup_context=_keep_scan)
    library.register_fake("nano_think::causal_conv_silu", lambda x, weight, bias, fresh: _new(x, *x.shape))
    library.register_fake("nano_think::causal_conv_silu_backward", _conv_backward_shapes)
    library.register_autograd("nano_think::causal_conv_silu", _conv_backward, setup_context=_keep_all)
    library.register_fake("nano_think::cross_entropy_", lambda logits, bias, target, errors: _new(bias, *target.shape))
    library.register_fake("nano_think::blend_cross_entropy", _blend_shapes)
    library.register_fake("nano_think::swiglu", lambda x: x.new_empty(len(x), x.shape[1] // 2))
    library.register_fake("nano_think::swiglu_backward", lambda g_y, x: x.new_empty(x.shape))
    library.register_autograd("nano_think::swiglu", _swiglu_backward, setup_context=_keep_all)
    library.register_fake("nano_think::rms_norm", _norm_shapes)
    library.register_fake("nano_think::rms_norm_backward", _norm_backward_shapes)
    library.register_autograd("nano_think::rms_norm", _norm_backward, setup_context=_keep_norm)
    library.register_fake("nano_think::split_heads", _split_shapes)
    library.register_fake("nano_think::split_heads_backward", _split_backward_shapes)
    library.register_autograd("nano_think::split_heads", _split_backward, setup_context=_keep_split)
    library.register_fake("nano_think::linear_rows", _linear_shapes)
    library.register_fake("nano_think::place_heads", _place_shapes)
    library.register_fake("nano_think::attend_rows", _attend_shapes)
    library.register_fake("nano_think::scan_rows", _step_shapes)
    library.register_fake("nano_think::mix_remembered", lambda logits, *others: _new(logits, *logits.shape))


def selective_scan(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor | None, fresh: Tensor,
    state: Tensor | None, soft: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`nn.selective_scan.selective_scan` in fp32 on a CPU; it keeps states only if there will be a backward pass."""
    inputs = (u, dt, A, B, C, D, z, state)
    keep = torch.is_grad_enabled() and any(x.requires_grad for x in inputs if x is not None)
    state = None if state is None else state.contiguous()
    y, last, _ = torch.ops.nano_think.selective_scan(
        u, dt, A.contiguous(), B, C, D, z, fresh.contiguous(), state, soft, keep
    )
    return y, last


def causal_conv_silu(x: Tensor, weight: Tensor, bias: Tensor, fresh: Tensor) -> Tensor:
    """`nn.causal_conv.causal_conv_silu` in fp32 on a CPU."""
    return torch.ops.nano_think.causal_conv_silu(x, weight, bias, fresh.contiguous())


def cross_entropy_(logits_SV: Tensor, bias_V: Tensor, target_S: Tensor, errors: bool) -> Tensor:
    """`heads.language.cross_entropy_plainly_` of fp32 or bf16 logits on a CPU."""
    return torch.ops.nano_think.cross_entropy_(logits_SV, bias_V, target_S.contiguous(), errors)


def blend_cross_entropy(
    logits_SKV: Tensor, share_SK: Tensor, bias_V: Tensor, target_S: Tensor
) -> tuple[Tensor, Tensor]:
    """`models.fusion.blend_cross_entropy_plainly` of fp32, bf16 or fp16 logits on a CPU."""
    return torch.ops.nano_think.blend_cross_entropy(logits_SKV, share_SK.contiguous(), bias_V, target_S.contiguous())


def swiglu(gate_up: Tensor) -> Tensor:
    """`nn.mlp.swiglu` in fp32 or bf16 on a CPU."""
    y_SF = torch.ops.nano_think.swiglu(gate_up.reshape(-1, gate_up.shape[-1]))
    return y_SF.view(*gate_up.shape[:-1], y_SF.shape[1])


def rms_norm(x: Tensor, weight: Tensor, eps: float, half: bool = False) -> Tensor:
    """`torch.nn.functional.rms_norm` over the last dimension in fp32 or bf16 on a CPU; `half`: in bf16."""
    return torch.ops.nano_think.rms_norm(x.reshape(-1, x.shape[-1]), weight, eps, half).view_as(x)


def split_heads(
    qkv_BTE: Tensor, n_heads: int, weight_q: Tensor | None, weight_k: Tensor | None, cos: Tensor, sin: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """`nn.split_heads.split_heads` in fp32 or bf16 on a CPU."""
    return torch.ops.nano_think.split_heads(qkv_BTE, n_heads, weight_q, weight_k, cos, sin, eps)


def linear_rows(
    x: Tensor, weight: Tensor, norm: Tensor | None, scale: Tensor | None, add: Tensor | None, gate: bool, eps: float
) -> Tensor:
    """`nn.rows.linear_rows` in fp32 on a CPU, for inference: it has no gradient."""
    return torch.ops.nano_think.linear_rows(x, weight, norm, scale, add, gate, eps)


def place_heads(
    qkv: Tensor, weight_q: Tensor | None, weight_k: Tensor | None, cos: Tensor, sin: Tensor, rows: Tensor,
    keys: Tensor, values: Tensor, eps: float,
) -> Tensor:  # fmt: skip
    """`nn.rows.place_heads` in fp32 on a CPU, for inference."""
    return torch.ops.nano_think.place_heads(qkv, weight_q, weight_k, cos, sin, rows, keys, values, eps)


def attend_rows(q: Tensor, keys: Tensor, values: Tensor, rows: Tensor, scale: float) -> Tensor:
    """`nn.rows.attend_rows` in fp32 on a CPU, for inference."""
    return torch.ops.nano_think.attend_rows(q, keys, values, rows, scale)


def scan_rows(
    projected: Tensor, weight: Tensor, bias: Tensor, dt_bias: Tensor, log_A: Tensor, skip: Tensor, rows: Tensor,
    tail: Tensor, state: Tensor,
) -> Tensor:  # fmt: skip
    """The middle of `nn.ssm.StateSpaceMixer.advance` in fp32 on a CPU, for inference."""
    return torch.ops.nano_think.scan_rows(projected, weight, bias, dt_bias, log_A, skip, rows, tail, state)


def mix_remembered(
    logits_V: Tensor, similarity_1k: Tensor, value_1k: Tensor, weight_1k: Tensor, share: float, sharpness: float
) -> Tensor:
    """`memory.read.mix_logits_plainly` in fp32 on a CPU, of one row of neighbours."""
    return torch.ops.nano_think.mix_remembered(logits_V, similarity_1k, value_1k, weight_1k, share, sharpness)


def _new(like: Tensor, *sizes: int) -> Tensor:
    return like.new_empty(sizes, dtype=torch.float32)


def _blend_shapes(logits, share, bias, target):
    return _new(bias, *target.shape), _new(bias, *share.shape)


def _linear_shapes(x, weight, norm, scale, add, gate, eps):
    return x.new_empty(len(x), len(weight) // (2 if gate else 1))


def _place_shapes(qkv, weight_q, weight_k, cos, sin, rows, keys, values, eps):
    return qkv.new_empty(len(qkv), keys.shape[1], keys.shape[3])


def _attend_shapes(q, keys, values, rows, scale):
    return q.new_empty(*q.shape[:2], values.shape[3])


def _step_shapes(projected, weight, bias, dt_bias, log_A, skip, rows, tail, state):
    return projected.new_empty(len(projected), state.shape[1] * state.shape[2])


def _scan_shapes(u, dt, A, B, C, D, z, fresh, state, soft, keep):
    (batch, T, inner), N = u.shape, A.shape[1]
    kept = batch * -(-T // CHUNK) * N * (-(-inner // PADDED) * PADDED) if keep else 0
    return _new(u, batch, T, inner), _new(u, batch, inner, N), _new(u, kept)


def _scan_backward_shapes(g_y, g_last, u, dt, A, B, C, D, z, fresh, checkpoints, soft):
    (batch, T, inner), N = u.shape, A.shape[1]
    shapes = (u.shape, u.shape, A.shape, B.shape, C.shape, D.shape, (batch if z is not None else 0, T, inner))
    return *(_new(u, *shape) for shape in shapes), _new(u, batch, inner, N)


def _keep_scan(ctx, inputs, output) -> None:
    *tensors, state, soft, keep = inputs
    assert keep, "a backward pass needs the kept states"
    ctx.save_for_backward(*tensors, output[2])
    ctx.soft, ctx.had_state = soft, state is not None


def _scan_backward(ctx, g_y: Tensor, g_last: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    u, dt, A, B, C, D, z, fresh, checkpoints = ctx.saved_tensors
    g_last = None if g_last is None else g_last.contiguous()
    *grads, g_z, g_state = torch.ops.nano_think.selective_scan_backward(
        g_y, g_last, u, dt, A, B, C, D, z, fresh, checkpoints, ctx.soft
    )
    return *grads, None if z is None else g_z, None, g_state if ctx.had_state else None, None, None


def _conv_backward_shapes(g_y, x, weight, bias, fresh):
    return _new(x, *x.shape), _new(x, *weight.shape), _new(x, *bias.shape)


def _keep_all(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _conv_backward(ctx, g_y: Tensor) -> tuple[Tensor | None, ...]:
    return *torch.ops.nano_think.causal_conv_silu_backward(g_y, *ctx.saved_tensors), None


def _swiglu_backward(ctx, g_y: Tensor) -> Tensor:
    return torch.ops.nano_think.swiglu_backward(g_y, *ctx.saved_tensors)


def _norm_shapes(x, weight, eps, half):
    return x.new_empty(x.shape, dtype=torch.bfloat16 if half else x.dtype)


def _norm_backward_shapes(g_y, x, weight, eps):
    return x.new_empty(x.shape), _new(x, *weight.shape)


def _keep_norm(ctx, inputs, output) -> None:
    *tensors, ctx.eps, _ = inputs
    ctx.save_for_backward(*tensors)


def _norm_backward(ctx, g_y: Tensor) -> tuple[Tensor | None, ...]:
    return *torch.ops.nano_think.rms_norm_backward(g_y, *ctx.saved_tensors, ctx.eps), None, None


def _split_shapes(qkv, n_heads, weight_q, weight_k, cos, sin, eps):
    batch, T, width = qkv.shape
    return tuple(qkv.new_empty(batch, n_heads, T, width // (3 * n_heads)) for _ in range(3))


def _split_backward_shapes(g_q, g_k, g_v, qkv, n_heads, weight_q, weight_k, cos, sin, eps):
    return qkv.new_empty(qkv.shape), *(_new(qkv, g_q.shape[-1]) for _ in range(2))


def _keep_split(ctx, inputs, output) -> None:
    qkv, ctx.n_heads, weight_q, weight_k, cos, sin, ctx.eps = inputs
    ctx.save_for_backward(qkv, weight_q, weight_k, cos, sin)


def _split_backward(ctx, g_q: Tensor, g_k: Tensor, g_v: Tensor) -> tuple[Tensor | None, ...]:
    qkv, weight_q, weight_k, cos, sin = ctx.saved_tensors
    g_qkv, to_q, to_k = torch.ops.nano_think.split_heads_backward(
        g_q, g_k, g_v, qkv, ctx.n_heads, weight_q, weight_k, cos, sin, ctx.eps
    )
    return g_qkv, None, None if weight_q is None else to_q, None if weight_k is None else to_k, None, None, None
