"""Noise on token embeddings, and what it leaves readable.

z = alpha e + sigma eps with alpha^2 = sigmoid(lambda), sigma^2 = sigmoid(-lambda), so that the variance stays 1 and
lambda is the log of the signal-to-noise ratio alpha^2 / sigma^2 (Kingma et al. 2021, Variational diffusion models).

B batch, T rows, D model width, C width of the noise code, L knots
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from nano_think.nn.linear import linear


def noise_window(vocabulary: int, width: int) -> tuple[float, float]:
    """Log-SNRs between which a token goes from hidden to plain: around log(2 H / d), H = ln V nats in d dimensions."""
    centre = math.log(2 * math.log(vocabulary) / width)
    return centre - 6.0, centre + 2.0


def signal_and_noise(log_snr: Tensor) -> tuple[Tensor, Tensor]:
    """(alpha, sigma) of each row, with a last axis of one to go before channels."""
    return log_snr.sigmoid().sqrt()[..., None], (-log_snr).sigmoid().sqrt()[..., None]


def add_noise(x_BTD: Tensor, log_snr_BT: Tensor) -> Tensor:
    """alpha x + sigma eps, (B, T, D), with eps from torch's global generator."""
    alpha, sigma = signal_and_noise(log_snr_BT)
    return alpha * x_BTD + sigma * torch.randn_like(x_BTD)


def bayes_skip(z_BTD: Tensor, log_snr_BT: Tensor) -> Tensor:
    """sqrt(D) (alpha / sigma^2) z, (B, T, D), in fp32: what to add to h so that the head counts the evidence of z.

    All rows e_v of the token table have one length, so log N(z; alpha e_v, sigma^2) = (alpha / sigma^2) e_v z + const
    and the head's E h / sqrt(D) + b becomes the exact posterior of Bayes' rule, with the prediction without z as prior.
    """
    log_snr_BT = log_snr_BT.float()
    gain_BT = log_snr_BT.sigmoid().sqrt() / (-log_snr_BT).sigmoid()
    return (z_BTD.shape[-1] ** 0.5 * gain_BT)[..., None] * z_BTD.float()


class NoiseCode(nn.Module):
    """A code per row: one learned vector for clean rows, one for queries, Fourier features of log-SNR for the rest."""

    frequency: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.clean, self.query = (nn.Parameter(torch.randn(width)) for _ in range(2))
        self.register_buffer("frequency", 2.0 ** torch.linspace(-4, 2, width // 2), persistent=False)
        self.mix = linear(width, width)

    def forward(self, log_snr_BT: Tensor, query_BT: Tensor) -> Tensor:
        """The codes of noisy rows, (B, T, C)."""
        angle = log_snr_BT[..., None] * self.frequency
        code_BTC = silu(self.mix(torch.cat([angle.sin(), angle.cos()], dim=-1)))
        return torch.where(query_BT[..., None], self.query.to(code_BTC.dtype), code_BTC)


class NoiseLevels(nn.Module):
    """Where in the window noise is drawn: where the loss falls fastest, a fifth of it everywhere.

    The loss is followed at L knots over the window, (0 to 1), by a moving average; the density of draws is its fall
    between them (Dieleman et al. 2022, CDCD, section 3.3: equal steps then gain equal information). It is part of a
    checkpoint and no parameter.
    """

    nll_L: Tensor

    def __init__(self, knots: int = 33, everywhere: float = 0.2, rate: float = 0.1):
        super().__init__()
        self.everywhere, self.rate = everywhere, rate
        self.register_buffer("nll_L", torch.linspace(1.0, 0.0, knots))

    def place(self, share: Tensor) -> Tensor:
        """Shares of the draws that are noisier, (0 to 1), to places in the window, (0 to 1): the inverse of the
        distribution function.
        """
        n = len(self.nll_L) - 1
        fall = (self.nll_L[:-1] - self.nll_L[1:]).clamp_min(0) + 1e-6
        density = (1 - self.everywhere) * fall / fall.sum() + self.everywhere / n
        below = torch.cat([density.new_zeros(1), density.cumsum(0)])
        share = share * below[-1]
        k = torch.searchsorted(below, share, right=True).sub_(1).clamp_(0, n - 1)
        return (k + (share - below[k]) / density[k]) / n

    @torch.no_grad()
    def learn(self, place_N: Tensor, nll_N: Tensor) -> None:
        """Let the average follow the losses that were found at these places."""
        knot_N = (place_N * (len(self.nll_L) - 1)).round().long()
        count_L = torch.zeros_like(self.nll_L).index_add_(0, knot_N, torch.ones_like(nll_N))
        mean_L = torch.zeros_like(self.nll_L).index_add_(0, knot_N, nll_N) / count_L.clamp_min(1)
        self.nll_L += self.rate * torch.where(count_L > 0, mean_L - self.nll_L, 0)
