"""The S6 selective scan (Gu and Dao 2023, "Mamba", section 3.2 and algorithm 2) in three forms that agree.

h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t,   y_t = (C_t h_t + D u_t) SiLU(z_t)

A is diagonal: every channel has N states of its own, which decay apart. dt, B and C depend on the token (the
"selection"); the decay is the zero-order hold of eq. 4, the input's is Euler's, as in the paper's code. `fresh` is true
at tokens before which the state is emptied: where documents begin.

B batch, T tokens, I channels, N states per channel. u, dt, z, y (B, T, I); A (I, N); B and C (B, T, N); D (I);
fresh (B, T); the state h (B, I, N).
"""

import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import silu, softplus

from nano_think.nn.native import kernels, ops

# Numbers in a chunk's (tokens, B, N, I): two megabytes a buffer, which stay in a CPU's cache.
CHUNK_NUMBERS = 2**19


def selective_scan(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, fresh: Tensor, z: Tensor | None = None,
    state: Tensor | None = None, soft: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """y in u's precision, and the state after the last token, from `state` (zeros unless given).

    With `soft` the steps are softplus(dt). Everything is computed in fp32, or in fp64 if A is: by the compiled kernel
    on a CPU where there is one, else by `scan_plainly`. Gradients flow to all but `fresh`, through both states too.
    """
    exact = torch.float64 if A.dtype == torch.float64 else torch.float32
    u_, dt, A, B, C, D = (x.to(exact) for x in (u, dt, A, B, C, D))
    z, state = (x if x is None else x.to(exact) for x in (z, state))
    with torch.autocast(u.device.type, enabled=False):
        if u.device.type == "cpu" and exact == torch.float32 and kernels().there:
            y, last = ops.selective_scan(u_, dt, A, B, C, D, z, fresh, state, soft)
        else:
            y, last = scan_plainly(u_, dt, A, B, C, D, z, state, fresh, soft)
    return y.to(u.dtype), last


def scan_plainly(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor | None, state: Tensor | None,
    fresh: Tensor, soft: bool = False, scan=None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The whole of `selective_scan` in torch, around the recurrence `scan` (by default with a backward of our own)."""
    steps = softplus(dt) if soft else dt
    start = u.new_zeros(len(u), *A.shape) if state is None else state
    y, last = (scan or ScanInChunks.apply)(u, steps, A, B, C, fresh, start)
    y = y + D * u
    return y if z is None else y * silu(z), last


def scan_sequentially(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, fresh: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The recurrence itself, one token after another: the oracle of all other forms. -> C_t h_t, and the last state."""
    out = []
    for t in range(u.shape[1]):
        kept = state.masked_fill(fresh[:, t, None, None], 0.0)
        state = torch.exp(dt[:, t, :, None] * A) * kept + (dt[:, t] * u[:, t])[..., None] * B[:, t, None]
        out.append((state * C[:, t, None]).sum(-1))
    return torch.stack(out, dim=1), state


class ScanInChunks(torch.autograd.Function):
    """`scan_sequentially` with its gradients written out: no compiler needed, and no graph of T steps.

    States exist for one chunk of tokens at a time and are made again on the way back, so memory grows by one state per
    chunk. Inside, time comes first and channels last: every step is one operation on contiguous numbers, in buffers
    that are allocated once (fresh memory costs more than the arithmetic).
    """

    @staticmethod
    def forward(ctx, u, dt, A, B, C, fresh, state):
        (batch, T, inner), N = u.shape, A.shape[1]
        A, h = A.t().contiguous(), state.transpose(1, 2)
        u, dt, B, C, fresh = (x.transpose(0, 1).contiguous() for x in (u, dt, B, C, fresh))
        chunk, kept, y = min(T, max(1, CHUNK_NUMBERS // (batch * N * inner))), [], []
        decays, states = (u.new_empty(chunk, batch, N, inner) for _ in range(2))
        for step, push, b, c, new in zip(*(x.split(chunk) for x in (dt, dt * u, B, C, fresh)), strict=True):
            kept.append(h)
            _, after = _states(step, push, A, b, new, h, decays, states)
            y.append(torch.bmm(c.view(-1, 1, N), after.view(-1, N, inner)).view(-1, batch, inner))
            h = after[-1].clone()
        ctx.save_for_backward(u, dt, A, B, C, fresh, *kept)
        ctx.chunk = chunk
        return torch.cat(y).transpose(0, 1), h.transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx, g_y, g_last):
        u, dt, A, B, C, fresh, *kept = ctx.saved_tensors
        g_h, g_A, parts = g_last.transpose(1, 2).contiguous(), torch.zeros_like(A), []
        buffers = [u.new_empty(ctx.chunk, *g_h.shape) for _ in range(3)]
        up = g_y.transpose(0, 1).contiguous()
        chunks = zip(*(x.split(ctx.chunk) for x in (u, dt, B, C, fresh, up)), kept, strict=True)
        for chunk in reversed(list(chunks)):
            grads, g_h = _chunk_backward(A, g_A, g_h, buffers, *chunk)
            parts.append(grads)
        g_u, g_dt, g_B, g_C = (torch.cat(part[::-1]).transpose(0, 1) for part in zip(*parts, strict=True))
        return g_u, g_dt, g_A.t(), g_B, g_C, None, g_h.transpose(1, 2)


def _states(
    dt: Tensor, push: Tensor, A: Tensor, B: Tensor, fresh: Tensor, h: Tensor, decays: Tensor, states: Tensor
) -> tuple[Tensor, Tensor]:
    """Decays and states of a chunk of L tokens behind the state h, written to the buffers: (L, B, N, I) each.

    push (L, B, I) is dt * u.
    """
    decays, states = decays[: len(dt)], states[: len(dt)]
    # torch's exp2 takes a third of the time of its exp.
    torch.mul(dt[:, :, None], A * math.log2(math.e), out=decays).exp2_()
    torch.mul(B[..., None], push[:, :, None], out=states)
    begins = fresh.any(1).tolist()
    if any(begins):
        decays.masked_fill_(fresh[:, :, None, None], 0.0)
    for t, (decay, state) in enumerate(zip(decays.unbind(), states.unbind(), strict=True)):
        # A decay of 0 alone would let what is not a number through.
        kept = h.masked_fill(fresh[t, :, None, None], 0.0) if begins[t] else h
        h = state.addcmul_(decay, kept)
    return decays, states


def _chunk_backward(A, g_A, g_h, buffers, u, dt, B, C, fresh, up, h) -> tuple[tuple[Tensor, ...], Tensor]:
    """The gradients of u, dt, B and C in a chunk that began in the state h, and that of h; g_A grows in place.

    `g_h` is the gradient of the state after the chunk, `up` that of y.
    """
    (length, batch, inner), N = u.shape, len(A)
    decays, states = _states(dt, dt * u, A, B, fresh, h, *buffers[:2])
    g = torch.mul(C[..., None], up[:, :, None], out=buffers[2][:length])
    g[-1] += g_h
    steps = list(zip(decays.unbind()[1:], g.unbind()[1:], g.unbind()[:-1], strict=True))
    for decay, later, earlier in reversed(steps):
        earlier.addcmul_(decay, later)
    g_push = torch.bmm(B.view(-1, 1, N), g.view(-1, N, inner)).view(-1, batch, inner)
    # The row times the transpose: the matrix times the column is the same, and takes ten times as long.
    g_B = torch.bmm((dt * u).view(-1, 1, inner), g.view(-1, N, inner).transpose(1, 2)).view(-1, batch, N)
    g_C = torch.bmm(up.view(-1, 1, inner), states.view(-1, N, inner).transpose(1, 2)).view(-1, batch, N)
    # Through the decays: d exp(dt A) = exp(dt A) (A d dt + dt dA), times the state before.
    through = g.mul_(decays)
    g_h = through[0].clone()
    through[1:].mul_(states[:-1])
    through[0].mul_(h)
    g_dt = torch.mul(through, A, out=decays).sum(2).addcmul_(g_push, u)
    g_A += through.mul_(dt[:, :, None]).sum((0, 1))
    return (g_push * dt, g_dt, g_B, g_C), g_h
