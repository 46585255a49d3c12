"""Selective state spaces in the Mamba-2 form (Dao and Gu 2024, "Transformers are SSMs").

B batch, T tokens, D model width, I inner width, G heads, P channels per head (I = G * P), N state per channel,
L chunk length, C chunks (T = C * L), R rows of a step
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, silu, softplus

from nano_think.nn.cache import Rows, Span
from nano_think.nn.causal_conv import CausalConv, ScanState
from nano_think.nn.linear import linear
from nano_think.nn.native import ops
from nano_think.nn.norm import RMSNorm
from nano_think.nn.rows import by_kernel, linear_rows


def scan_sequentially(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, documents: Tensor) -> Tensor:
    """The recurrence itself, one token after another: the plain twin and the test oracle of `scan_in_chunks`.

    S_t = exp(dt_t A) S_{t-1} + dt_t x_t B_t^T,  y_t = S_t C_t  (Dao and Gu 2024, eq. 1 with scalar A per head).
    x (B, T, G, P), dt (B, T, G), A (G), B and C (B, T, N), documents (B, T) -> y (B, T, G, P). The state is emptied at
    the first token of every document.
    """
    state = x.new_zeros(*x[:, 0].shape, B.shape[-1])
    out = []
    for t in range(x.shape[1]):
        kept = (documents[:, t] == documents[:, t - 1]) if t else torch.zeros_like(documents[:, 0], dtype=torch.bool)
        decay_BG = torch.exp(dt[:, t] * A) * kept[:, None]
        update = (dt[:, t, :, None] * x[:, t])[..., None] * B[:, t, None, None, :]
        state = decay_BG[..., None, None] * state + update
        out.append((state * C[:, t, None, None, :]).sum(-1))
    return torch.stack(out, dim=1)


def scan_in_chunks(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, documents: Tensor, chunk: int = 64
) -> Tensor:
    """The same as `scan_sequentially`, as matrix products within chunks of tokens (Dao and Gu 2024, section 6).

    Exponents are differences of cumulative log decays and never positive, so nothing overflows however large dt is.
    """
    state = x.new_zeros(x.shape[0], *x.shape[2:], B.shape[-1])
    return scan_on(state, documents[:, 0], x, dt, A, B, C, documents, chunk)[0]


def scan_on(
    state: Tensor, last: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, documents: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """`scan_in_chunks` behind tokens that left `state`, (B, G, P, N), the last of document `last`, (B): y and the state
    after it.
    """
    T = x.shape[1]
    fill = -T % chunk
    if fill:
        # Steps of no length of the open document: they change no state.
        x, dt, B, C = (pad(v, (0, 0) * (v.dim() - 2) + (0, fill)) for v in (x, dt, B, C))
        documents = torch.cat([documents, documents[:, -1:].expand(-1, fill)], dim=1)
    x, dt, B, C, documents = (v.unflatten(1, (-1, chunk)) for v in (x, dt, B, C, documents))
    log_decay_BCLG = (dt * A).cumsum(dim=2)
    xdt = x * dt[..., None]

    y = _within_chunks(xdt, log_decay_BCLG, B, C, documents)
    carried = []
    for c in range(x.shape[1]):
        carried.append(_read_state(state, log_decay_BCLG[:, c], C[:, c], documents[:, c] == last[:, None]))
        state = _pass_state(state, xdt[:, c], log_decay_BCLG[:, c], B[:, c], documents[:, c], last)
        last = documents[:, c, -1]
    return (y + torch.stack(carried, dim=1)).flatten(1, 2)[:, :T], state


def scan_one(
    state: Tensor, same: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor
) -> tuple[Tensor, Tensor]:
    """One step of the recurrence: x (B, G, P), dt (B, G), B and C (B, N), same (B, 1) -> y (B, G, P) and the state."""
    decay_BG = torch.exp(dt * A) * same
    state = decay_BG[..., None, None] * state + (dt[..., None] * x)[..., None] * B[:, None, None, :]
    return (state @ C[:, None, :, None]).squeeze(-1), state


def _within_chunks(xdt: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, documents: Tensor) -> Tensor:
    """What the tokens of a chunk give each other: (C B^T * decay * mask) x, (B, C, L, G, P)."""
    L = xdt.shape[2]
    causal = torch.ones(L, L, dtype=torch.bool, device=xdt.device).tril()
    mask = (documents[..., :, None] == documents[..., None, :]) & causal
    hidden_BCLL = torch.zeros_like(mask, dtype=xdt.dtype).masked_fill_(~mask, float("-inf"))
    log_BCGL = log_decay.transpose(2, 3)
    # Heads before the pairs of tokens: the products over tokens then need no copies.
    decay_BCGLL = torch.exp(log_BCGL[..., :, None] - log_BCGL[..., None, :] + hidden_BCLL[:, :, None])
    weight_BCGLL = (C @ B.transpose(-1, -2))[:, :, None] * decay_BCGLL
    return (weight_BCGLL @ xdt.transpose(2, 3)).transpose(2, 3)


def _read_state(state: Tensor, log_decay: Tensor, C: Tensor, same: Tensor) -> Tensor:
    """What the state before a chunk gives its tokens of the same document, (B, L, G, P)."""
    decay_BLG = torch.exp(log_decay) * same[..., None]
    return torch.einsum("bgpn,bln->blgp", state, C) * decay_BLG[..., None]


def _pass_state(state: Tensor, xdt: Tensor, log_decay: Tensor, B: Tensor, documents: Tensor, last: Tensor) -> Tensor:
    """The state after a chunk, (B, G, P, N): only the document that is open at its end leaves anything in it."""
    open_BL = documents == documents[:, -1:]
    decay_BLG = torch.exp(log_decay[:, -1:] - log_decay) * open_BL[..., None]
    added = torch.einsum("blgp,bln->bgpn", xdt * decay_BLG[..., None], B)
    kept_BG = torch.exp(log_decay[:, -1]) * (documents[:, -1] == last)[:, None]
    return kept_BG[..., None, None] * state + added


class StateSpaceMixer(nn.Module):
    """Convolution, selective scan and gate of Mamba-2: (B, T, D) -> (B, T, D).

    B_t, C_t and dt_t come from the input (the "selection" of Gu and Dao 2023, algorithm 2); A is one negative number
    per head. The scan runs in fp32.
    """

    def __init__(self, width: int, inner: int, n_state: int, head_width: int, taps: int, chunk: int):
        super().__init__()
        assert inner % head_width == 0, f"head_width: wanted a divisor of the inner width {inner}, got {head_width}"
        self.inner, self.n_state, self.head_width, self.chunk = inner, n_state, head_width, chunk
        n_heads = inner // head_width
        self.project = linear(width, 2 * inner + 2 * n_state + n_heads)
        self.conv = CausalConv(inner + 2 * n_state, taps)
        self.log_A = nn.Parameter(torch.linspace(1, 16, n_heads).log())
        # dt starts log-uniform in [0.001, 0.1] tokens: a head remembers some 1 to 1,000 tokens (Gu and Dao 2023, 3.6).
        dt = torch.exp(torch.linspace(-6.9, -2.3, n_heads))
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))
        self.skip = nn.Parameter(torch.ones(n_heads))
        self.norm = RMSNorm(inner)
        self.out = linear(inner, width, zero=True)

    def forward(self, u_BTD: Tensor, documents_BT: Tensor) -> Tensor:
        gate, xBC, dt = self._project(u_BTD)
        x_BTGP, B, C = self._select(self.conv(xBC, documents_BT))
        with torch.autocast(u_BTD.device.type, enabled=False):
            y_BTGP = scan_in_chunks(x_BTGP, dt, -self.log_A.exp(), B, C, documents_BT, self.chunk)
        return self._finish(y_BTGP, x_BTGP, gate)

    def extend(self, u_BTD: Tensor, span: Span, cache: ScanState) -> Tensor:
        """The same for new tokens behind what the state has read, (B, T, D)."""
        gate, xBC, dt = self._project(u_BTD)
        x_BTGP, B, C = self._select(cache.convolve(self.conv, xBC, span))
        if cache.state is None:
            cache.state = x_BTGP.new_zeros(*x_BTGP[:, 0].shape, self.n_state)
        last_B, A = span.documents_BS[:, max(0, span.first - 1)], -self.log_A.exp()
        with torch.autocast(u_BTD.device.type, enabled=False):
            if u_BTD.shape[1] == 1:
                same_B1 = span.documents_BT == last_B[:, None]
                values = (x_BTGP[:, 0], dt[:, 0], A, B[:, 0], C[:, 0])
                y, cache.state = scan_one(cache.state, same_B1, *values)
                y = y[:, None]
            else:
                values = (x_BTGP, dt, A, B, C)
                y, cache.state = scan_on(cache.state, last_B, *values, span.documents_BT, self.chunk)
        return self._finish(y, x_BTGP, gate)

    def advance(self, x_RD: Tensor, norm: nn.RMSNorm, rows: Rows, cache: ScanState) -> Tensor:
        """x + this of norm(x), (R, D), for one new token of each of R rows behind what their states have read."""
        y_RI = self.scan_rows(linear_rows(x_RD, self.project.weight, norm), rows, cache)
        return linear_rows(y_RI, self.out.weight, self.norm, add_RO=x_RD)

    def scan_rows(self, projected_RE: Tensor, rows: Rows, cache: ScanState) -> Tensor:
        """Convolution, scan and gate of one token of each row, (R, I).

        By the compiled kernel on a CPU where there is one, else by `scan_rows_plainly`.
        """
        return cache.in_turn(partial(self._scan_rows, cache), projected_RE, rows)

    def _scan_rows(self, cache: ScanState, projected_RE: Tensor, rows: Rows) -> Tensor:
        parts = (self.conv.weight, self.conv.bias, self.dt_bias, self.log_A, self.skip)
        if by_kernel(projected_RE, *parts, *cache.kept()):
            return ops.scan_rows(projected_RE, *parts, rows.at_3R, *cache.kept())
        return self.scan_rows_plainly(projected_RE, rows, cache)

    def scan_rows_plainly(self, projected_RE: Tensor, rows: Rows, cache: ScanState) -> Tensor:
        """The kernel's twin."""
        gate, xBC, dt = self._split(projected_RE)
        x_RGP, B, C = self._select(cache.convolve_rows(self.conv, xBC, rows))
        _, states = cache.kept()
        same_R1, A = ~rows.fresh_R[:, None], -self.log_A.exp()
        y_RGP, states[rows.slot_R] = scan_one(states[rows.slot_R], same_R1, x_RGP, dt, A, B, C)
        return (y_RGP + self.skip[:, None] * x_RGP).flatten(1) * silu(gate)

    def _project(self, u_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self._split(self.project(u_BTD))

    def _split(self, projected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gate, xBC, dt = projected.split([self.inner, self.inner + 2 * self.n_state, len(self.skip)], dim=-1)
        return gate, xBC, softplus(dt.float() + self.dt_bias)

    def _select(self, xBC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, B, C = xBC.float().split([self.inner, self.n_state, self.n_state], dim=-1)
        return x.unflatten(-1, (-1, self.head_width)), B, C

    def _finish(self, y_BTGP: Tensor, x_BTGP: Tensor, gate: Tensor) -> Tensor:
        y_BTI = (y_BTGP + self.skip[:, None] * x_BTGP).flatten(2)
        return self.out(self.norm(y_BTI * silu(gate)))
