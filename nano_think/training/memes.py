"""Memetic learning: a population of low-rank adapters that learn, cross, mutate and imitate, over a frozen model.

After the evolution of adapters of Zhang et al. 2025 (GENOME), with a few gradient steps as the mutation. What counts is
whether it beats as many gradient steps spent plainly (benchmarks/component_ways/memes.py).

P memes, R rank, O and I outputs and inputs of a matrix
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import kl_div

from nano_think.core.config import Config
from nano_think.training.objectives.chat import ChatObjective

Draw = Callable[[], Tensor]
"""Windows to learn from, (B, T + 1), others at every call."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemesConfig(Config):
    """A population, and how it changes."""

    population: int = 8
    """Memes (adapters)."""
    rank: int = 4
    """Rank of an adapter's change of each matrix (numbers)."""
    births: int = 16
    """Children, one after another, each in the place of the least fit (adapters)."""
    steps: int = 25
    """Gradient steps of each meme at its birth (steps)."""
    low: float = 0.001
    """Least learning rate that is drawn (Adam's; change per step and entry)."""
    high: float = 0.03
    """Largest learning rate that is drawn (Adam's; change per step and entry)."""
    noise: float = 0.002
    """Spread of what is added to each number of a child (a number)."""
    imitation: float = 0.1
    """Weight of the divergence from the fittest's predictions while a child learns (a factor)."""

    def __post_init__(self) -> None:
        if min(self.rank, self.steps) < 1 or self.population < 2 or self.births < 0:
            raise ValueError("rank, steps, population and births: wanted at least 1, 1, 2 and 0")
        if not (0 < self.low <= self.high and min(self.noise, self.imitation) >= 0):
            raise ValueError("low and high: wanted 0 < low <= high; noise and imitation: wanted 0 or more")

    @property
    def gradient_steps(self) -> int:
        """Of the whole evolution."""
        return self.steps * (self.population + self.births)


@dataclass
class Meme:
    """By matrix: factors (O, R) and (R, I), whose product is added to it. loss: on the niche (nats); less is fitter."""

    factors: dict[str, tuple[Tensor, Tensor]]
    loss: float = math.inf
    parents: tuple[int, ...] = field(default_factory=tuple)


class Host:
    """A frozen model that memes live on; its matrices are those of the backbone's layers."""

    def __init__(self, objective: ChatObjective):
        self.objective = objective.eval().requires_grad_(False)
        self.matrices = {
            name: parameter
            for name, parameter in objective.named_parameters()
            if parameter.ndim == 2 and ".blocks." in name
        }
        assert self.matrices, "no matrix for a meme to change"

    def born(self, rank: int, dice: torch.Generator) -> Meme:
        """A meme that changes nothing yet: one factor drawn, the other 0."""
        factors = {}
        for name, matrix in self.matrices.items():
            O, I = matrix.shape  # noqa: E741
            factors[name] = torch.zeros(O, rank), torch.randn(rank, I, generator=dice) * I**-0.5
        return Meme(factors)

    def loss(self, meme: Meme, windows: Tensor) -> Tensor:
        """The objective's loss of windows with a meme, ()."""
        return torch.stack(list(functional_call(self.objective, self._merged(meme), (windows, 0.0)).values())).sum()

    def log_p(self, meme: Meme, windows: Tensor) -> Tensor:
        """What is predicted with a meme, (B, T, V)."""
        merged = {name.removeprefix("model."): value for name, value in self._merged(meme).items()}
        model = self.objective.model
        return model.logits(functional_call(model, merged, (windows[:, :-1],))).log_softmax(-1)

    @torch.no_grad()
    def measure(self, meme: Meme, niche: Sequence[Tensor]) -> float:
        """The mean loss over batches of windows."""
        return sum(float(self.loss(meme, windows)) for windows in niche) / len(niche)

    def _merged(self, meme: Meme) -> dict[str, Tensor]:
        return {name: self.matrices[name] + out @ into for name, (out, into) in meme.factors.items()}


def learn(
    host: Host, meme: Meme, steps: int, rate: float, draw: Draw, model: Meme | None = None, imitation: float = 0.0
) -> None:
    """Gradient steps in place, by Adam; with a model, towards its predictions too: KL(model | meme) per token."""
    numbers = [factor.requires_grad_(True) for pair in meme.factors.values() for factor in pair]
    optimizer = torch.optim.Adam(numbers, lr=rate)
    for _ in range(steps):
        windows = draw()
        loss = host.loss(meme, windows)
        if model is not None and imitation:
            with torch.no_grad():
                wanted = host.log_p(model, windows)
            told = kl_div(host.log_p(meme, windows), wanted, log_target=True, reduction="none").sum(-1).mean()
            loss = loss + imitation * told
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for number in numbers:
        number.requires_grad_(False)


def cross(one: Meme, other: Meme, noise: float, dice: torch.Generator) -> Meme:
    """A child that has each matrix's factors from one of its parents, with noise added to them."""
    factors = {}
    for name in one.factors:
        pair = (one, other)[int(torch.randint(2, (), generator=dice))].factors[name]
        out, into = (part + noise * torch.randn(part.shape, generator=dice) for part in pair)
        factors[name] = out, into
    return Meme(factors)


def evolve(host: Host, config: MemesConfig, draw: Draw, niche: Sequence[Tensor], seed: int) -> list[Meme]:
    """The population at the end, the fittest first. Parents win tournaments of two; each child learns with a rate drawn
    from the logarithm's uniform, imitates the fittest, and takes the place of the least fit.
    """
    dice, rates = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    memes = [host.born(config.rank, dice) for _ in range(config.population)]
    for meme in memes:
        learn(host, meme, config.steps, draw_rate(config, rates), draw)
        meme.loss = host.measure(meme, niche)
    for _ in range(config.births):
        memes.sort(key=lambda meme: meme.loss)
        # Of a list that is sorted the smaller of two places wins.
        parents = tuple(int(place) for place in rates.integers(0, len(memes), (2, 2)).min(axis=1))
        child = cross(memes[parents[0]], memes[parents[1]], config.noise, dice)
        learn(host, child, config.steps, draw_rate(config, rates), draw, memes[0], config.imitation)
        child.loss, child.parents = host.measure(child, niche), parents
        memes[-1] = min(child, memes[-1], key=lambda meme: meme.loss)
    return sorted(memes, key=lambda meme: meme.loss)


def draw_rate(config: MemesConfig, dice: np.random.Generator) -> float:
    return float(np.exp(dice.uniform(np.log(config.low), np.log(config.high))))


def soup(memes: Sequence[Meme], rank: int) -> Meme:
    """The mean change of several memes, as the nearest one of a rank (by singular values)."""
    factors = {}
    for name in memes[0].factors:
        mean = torch.stack([out @ into for out, into in (meme.factors[name] for meme in memes)]).mean(dim=0)
        u, s, v = torch.linalg.svd(mean, full_matrices=False)
        factors[name] = u[:, :rank] * s[:rank], v[:rank]
    return Meme(factors)
