"""The layer around the S6 scan: the block of Mamba (Gu and Dao 2023, figure 3).

B batch, T tokens, D model width, I inner width (channels), N states per channel, R rank of the steps (of a step: rows)
"""

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import linear as multiply

from nano_think.nn.cache import Rows, Span
from nano_think.nn.causal_conv import CausalConv, ScanState
from nano_think.nn.documents import document_changes
from nano_think.nn.linear import linear
from nano_think.nn.rows import linear_rows
from nano_think.nn.selective_scan import selective_scan

# Steps dt begin log-uniform between these: a channel remembers some 1 to 1,000 tokens (section 3.6).
LEAST_STEP, MOST_STEP = 1e-3, 1e-1


class S6Mixer(nn.Module):
    """Convolution, selective scan and gate of Mamba: (B, T, D) -> (B, T, D).

    [x, z] = u W; x = SiLU(conv(x)); [d, B, C] = x V; dt = softplus(d W_dt + b): B_t, C_t and dt_t are functions of the
    token, dt through a bottleneck of `rank` numbers (section 3.2, algorithm 2). A begins as -1 to -N in every channel
    (S4D-real). The scan runs in fp32, and so do the steps.
    """

    def __init__(self, width: int, inner: int, n_state: int, rank: int, taps: int):
        super().__init__()
        self.inner, self.n_state, self.rank = inner, n_state, rank
        self.project = linear(width, 2 * inner)
        self.conv = CausalConv(inner, taps)
        self.select = linear(inner, rank + 2 * n_state)
        self.step = linear(rank, inner)
        nn.init.uniform_(self.step.weight, -(rank**-0.5), rank**-0.5)
        dt = torch.empty(inner).uniform_().mul(math.log(MOST_STEP / LEAST_STEP)).exp() * LEAST_STEP
        # The inverse of softplus.
        self.step_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))
        self.log_A = nn.Parameter(torch.arange(1.0, n_state + 1).log().repeat(inner, 1))
        self.skip = nn.Parameter(torch.ones(inner))
        self.out = linear(inner, width, zero=True)

    def forward(self, u_BTD: Tensor, documents_BT: Tensor) -> Tensor:
        x_BTI, z_BTI = self.project(u_BTD).chunk(2, dim=-1)
        x_BTI = self.conv(x_BTI, documents_BT)
        return self._scan(x_BTI, z_BTI, document_changes(documents_BT))[0]

    def extend(self, u_BTD: Tensor, span: Span, cache: ScanState) -> Tensor:
        """The same for new tokens behind what the state has read, (B, T, D)."""
        x_BTI, z_BTI = self.project(u_BTD).chunk(2, dim=-1)
        x_BTI = cache.convolve(self.conv, x_BTI, span)
        last_B = span.documents_BS[:, span.first - 1] if span.first else None
        y_BTD, cache.state = self._scan(x_BTI, z_BTI, document_changes(span.documents_BT, last_B), cache.state)
        return y_BTD

    def advance(self, x_RD: Tensor, norm: nn.RMSNorm, rows: Rows, cache: ScanState) -> Tensor:
        """x + this of norm(x), (R, D), for one new token of each of R rows behind what their states have read."""
        projected_RE = linear_rows(x_RD, self.project.weight, norm)
        return x_RD + cache.in_turn(partial(self._scan_rows, cache), projected_RE, rows)

    def _scan_rows(self, cache: ScanState, projected_RE: Tensor, rows: Rows) -> Tensor:
        """Convolution, scan and gate of one token of each row, (R, D)."""
        x_RI, z_RI = projected_RE.chunk(2, dim=-1)
        x_RI = cache.convolve_rows(self.conv, x_RI, rows)
        _, states = cache.kept()
        y_R1D, states[rows.slot_R] = self._scan(
            x_RI[:, None], z_RI[:, None], rows.fresh_R[:, None], states[rows.slot_R]
        )
        return y_R1D[:, 0]

    def _scan(
        self, x_BTI: Tensor, z_BTI: Tensor, fresh_BT: Tensor, state_BIN: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        d_BTR, B_BTN, C_BTN = self.select(x_BTI).split([self.rank, self.n_state, self.n_state], dim=-1)
        with torch.autocast(x_BTI.device.type, enabled=False):
            # In half precision the bias alone would be wrong by some per cent of a step.
            dt_BTI = multiply(d_BTR.float(), self.step.weight, self.step_bias)
        y_BTI, state_BIN = selective_scan(
            x_BTI, dt_BTI, -self.log_A.exp(), B_BTN, C_BTN, self.skip, fresh_BT, z_BTI, state_BIN, soft=True
        )
        return self.out(y_BTI), state_BIN
