"""Continuous latents: a few tokens as one vector and back, and a head that draws the vector of the tokens to come.

After Shao et al. 2025 (CALM): an autoencoder over pieces of K tokens, and the energy score, a proper loss for draws.

B batch, M pieces of a window, K tokens of a piece, D model width, L width of a latent, N draws
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import dropout, silu

from nano_think.heads.language import LanguageHead
from nano_think.nn.linear import linear
from nano_think.nn.norm import RMSNorm
from nano_think.parts import PARTS, Lesson, Part, PartConfig

# A distance has no gradient at 0.
SMALLEST = 1e-8


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentsConfig(PartConfig):
    """Pieces of text as vectors."""

    piece: int = 4
    """Tokens of a piece (tokens)."""
    latent: int = 64
    """Width of a latent (numbers)."""
    inner: int = 0
    """Inner width of the two maps; 0 is four times the model width (channels)."""
    dropout: float = 0.15
    """Share of tokens, and of numbers of a latent, that are blotted out while training (0 to 1)."""
    noise: float = 1.0
    """Spread of the noise that is added to a latent while training, in its own spreads (a factor)."""
    rate: float = 0.001
    """Weight of the divergence from a standard normal distribution (a factor)."""
    free: float = 0.5
    """Divergence of each number of a latent that costs nothing (nats)."""
    draws: int = 8
    """Draws of the next piece's latent that the energy score is estimated from (draws)."""
    weight: float = 0.1
    """Weight of both losses (a factor)."""

    def __post_init__(self) -> None:
        if min(self.piece, self.latent) < 1 or self.draws < 2 or self.inner < 0:
            raise ValueError("piece, latent, draws and inner: wanted at least 1, 1, 2 and 0")
        if not (0 <= self.dropout < 1 and min(self.noise, self.rate, self.free, self.weight) >= 0):
            raise ValueError("dropout: wanted 0 up to 1; noise, rate, free and weight: wanted 0 or more")


@PARTS.register("latents")
class Latents(Part):
    """Embeddings of K tokens -> a normal distribution over (L) -> K hidden states for the head; and h with noise -> a
    draw of the latent of the next K tokens. The model does not learn from either.
    """

    Config = LatentsConfig

    def __init__(self, config: LatentsConfig, width: int, vocabulary: int):
        super().__init__()
        self.config, inner = config, config.inner or 4 * width
        self.encode_up, self.encode_down = linear(config.piece * width, inner), linear(inner, 2 * config.latent)
        self.decode_up, self.decode_down = linear(config.latent, inner), linear(inner, config.piece * width)
        self.norm = RMSNorm(width)
        self.draw_up, self.draw_down = linear(width + config.latent, inner), linear(inner, config.latent)

    def encode(self, x_BMKD: Tensor) -> tuple[Tensor, Tensor]:
        """Means and logarithms of the spreads of the latents, (B, M, L) each."""
        mean, log_spread = self.encode_down(silu(self.encode_up(x_BMKD.flatten(-2)))).chunk(2, dim=-1)
        return mean, log_spread.clamp(-8, 8)

    def decode(self, z_BML: Tensor) -> Tensor:
        """Hidden states for the head, (B, M, K, D)."""
        return self.decode_down(silu(self.decode_up(z_BML))).unflatten(-1, (self.config.piece, -1))

    def draw(self, hidden_BMD: Tensor, noise_BMNL: Tensor) -> Tensor:
        """Draws of the next piece's latent behind each state, (B, M, N, L)."""
        read_BMND = self.norm(hidden_BMD)[:, :, None].expand(-1, -1, noise_BMNL.shape[2], -1)
        return self.draw_down(silu(self.draw_up(torch.cat([read_BMND, noise_BMNL], dim=-1))))

    def read_back(self, tokens_BMK: Tensor, head: LanguageHead, noise: float = 0.0) -> Tensor:
        """The likeliest tokens of the pieces' latents, (B, M, K), with noise of that spread added to each number."""
        z_BML, _ = self.encode(head.embed(tokens_BMK))
        return head.logits(self.decode(z_BML + noise * torch.randn_like(z_BML))).argmax(-1)

    def losses(self, lesson: Lesson) -> dict[str, Tensor]:
        """Of the windows cut into pieces, those that hold no start of a document: nats per token to read a piece back
        with the divergence of its latent, and the energy score of the draws.
        """
        K, T = self.config.piece, lesson.targets_BT.shape[1] // self.config.piece * self.config.piece
        if not T:
            return {}
        tokens_BMK = lesson.targets_BT[:, :T].unflatten(1, (-1, K))
        whole_BM = lesson.every_BT[:, :T].unflatten(1, (-1, K)).all(-1)
        mean_BML, log_spread_BML = self.encode(self._blot(lesson.head.embed(tokens_BMK)))
        z_BML = self._spoilt(mean_BML, log_spread_BML)
        hidden_BTD = self.decode(z_BML).flatten(1, 2)
        nll_BM = lesson.head.nll(hidden_BTD, lesson.targets_BT[:, :T]).unflatten(1, (-1, K)).mean(-1)
        divergence_BML = 0.5 * (mean_BML**2 + (2 * log_spread_BML).exp()) - log_spread_BML - 0.5
        free_BM = divergence_BML.clamp_min(self.config.free).sum(-1)
        # The state that has read up to a piece's first token's place speaks of that token: position m K.
        drawn_BMNL = self._draws(lesson.hidden_BTD[:, :T:K].detach())
        score_BM = energy_score(drawn_BMNL, mean_BML.detach())
        share = self.config.weight / lesson.learned_BT.sum().clamp_min(1)
        return {
            "reconstruction": share * lesson.tally(nll_BM + self.config.rate * free_BM, whole_BM),
            "score": share * lesson.tally(score_BM, whole_BM),
        }

    def _draws(self, hidden_BMD: Tensor) -> Tensor:
        size = (*hidden_BMD.shape[:2], self.config.draws, self.config.latent)
        return self.draw(hidden_BMD, self.config.noise * torch.randn(size, device=hidden_BMD.device))

    def _spoilt(self, mean_BML: Tensor, log_spread_BML: Tensor) -> Tensor:
        """A draw of the latents with some numbers blotted out, while training; else their means."""
        if not self.training:
            return mean_BML
        drawn_BML = mean_BML + self.config.noise * log_spread_BML.exp() * torch.randn_like(mean_BML)
        return dropout(drawn_BML, self.config.dropout)

    def _blot(self, x_BMKD: Tensor) -> Tensor:
        """Some tokens as zeros, while training."""
        if not (self.training and self.config.dropout):
            return x_BMKD
        return x_BMKD * (torch.rand_like(x_BMKD[..., :1]) >= self.config.dropout)


def energy_score(drawn_BMNL: Tensor, came_BML: Tensor) -> Tensor:
    """2 / N sum_n |z - z_n| - 1 / (N (N - 1)) sum_{n, m} |z_n - z_m|, (B, M): lowest in expectation for draws from the
    distribution of z itself (Gneiting and Raftery 2007, section 4.3).
    """
    N = drawn_BMNL.shape[2]
    error_BM = _length(drawn_BMNL - came_BML[:, :, None]).mean(-1)
    apart_BM = _length(drawn_BMNL[:, :, :, None] - drawn_BMNL[:, :, None]).sum((-1, -2))
    return 2 * error_BM - apart_BM / (N * (N - 1))


def _length(x: Tensor) -> Tensor:
    return (x**2).sum(-1).add(SMALLEST).sqrt()
