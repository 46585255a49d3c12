"""From logits to a token. V vocabulary, C candidates."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nano_think.core.config import Config

SEEDS = 2**63


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingConfig(Config):
    """How the next token is drawn."""

    temperature: float = 0.8
    """Divides the logits (nats); 0 takes the most likely token."""
    top_k: int = 50
    """Draw from this many most likely tokens; 0 from all (tokens)."""
    top_p: float = 0.95
    """Draw from the fewest tokens whose probabilities reach this sum (0 to 1)."""
    min_p: float = 0.0
    """Draw only from tokens that are at least this share as likely as the most likely one (0 to 1)."""
    repetition_penalty: float = 1.0
    """Divides the logits of tokens that the text holds already where they are positive, and multiplies them where they
    are not; 1 does nothing (a factor)."""
    seed: int = 0
    """Seed of the draws: the same seed, model and prompt give the same text."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature: wanted 0 or more, got {self.temperature}")
        if not 0 <= self.seed < SEEDS:
            raise ValueError(f"seed: wanted 0 to {SEEDS - 1}, got {self.seed}")
        if self.top_k < 0:
            raise ValueError(f"top_k: wanted 0 or more, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: wanted a share above 0 and up to 1, got {self.top_p}")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p: wanted a share from 0 to 1, got {self.min_p}")
        if not 0 < self.repetition_penalty < float("inf"):
            raise ValueError(f"repetition_penalty: wanted more than 0, got {self.repetition_penalty}")


class Candidates(NamedTuple):
    """The tokens that may be drawn, (C), and their probabilities, (C), which sum to 1; the likeliest first."""

    token_C: Tensor
    p_C: Tensor


def candidates(logits_V: Tensor, config: SamplingConfig, seen: AbstractSet[int] = frozenset()) -> Candidates:
    """What may come next: repetition penalty (Keskar et al. 2019, section 4.1) on the tokens `seen`, temperature,
    then top-k, top-p (Holtzman et al. 2020) and min-p (Nguyen et al. 2024), each on what the one before has left.
    """
    logits_V = penalised(logits_V.float(), config.repetition_penalty, seen)
    if config.temperature == 0:
        return Candidates(logits_V.argmax()[None], logits_V.new_ones(1))
    kept = min(config.top_k or len(logits_V), len(logits_V))
    logits_C, token_C = logits_V.topk(kept) if kept < len(logits_V) else logits_V.sort(descending=True, stable=True)
    # Below a millionth fp32 would divide by 0.
    p_C = ((logits_C - logits_C[0]) / max(config.temperature, 1e-6)).softmax(dim=-1)
    if config.top_p < 1:
        p_C = p_C.masked_fill(p_C.cumsum(0) - p_C >= config.top_p, 0.0)
    if config.min_p:
        p_C = p_C.masked_fill(p_C < config.min_p * p_C[0], 0.0)
    return Candidates(token_C, p_C / p_C.sum())


def penalised(logits_V: Tensor, penalty: float, seen: AbstractSet[int]) -> Tensor:
    """The logits with those of tokens that were seen made smaller, for a penalty above 1."""
    if penalty == 1 or not seen:
        return logits_V
    token_C = torch.tensor(sorted(seen), device=logits_V.device)
    old_C = logits_V[token_C]
    return logits_V.index_copy(0, token_C, torch.where(old_C > 0, old_C / penalty, old_C * penalty))


def distribution(logits_V: Tensor, config: SamplingConfig, seen: AbstractSet[int] = frozenset()) -> Tensor:
    """`candidates` as probabilities of all tokens, (V)."""
    found = candidates(logits_V, config, seen)
    return torch.zeros_like(logits_V, dtype=torch.float32).index_copy(0, found.token_C, found.p_C)


def draw(
    logits_V: Tensor, config: SamplingConfig, generator: torch.Generator, seen: AbstractSet[int] = frozenset()
) -> int:
    """One token id: the one in whose share of the candidates' probabilities a uniform number falls."""
    token_C, p_C = candidates(logits_V, config, seen)
    return int(token_C if config.temperature == 0 else token_C[draw_place(p_C, generator)])


def draw_place(p_C: Tensor, generator: torch.Generator) -> Tensor:
    """The place, (1), in whose share of probabilities, which need not sum to 1, a uniform number falls."""
    below_C = p_C.cpu().double().cumsum(0)
    place = below_C[-1:] * torch.rand(1, generator=generator, dtype=torch.float64)
    # Behind the last candidate of any probability the sums stay equal.
    last = torch.searchsorted(below_C, below_C[-1:])
    return torch.minimum(torch.searchsorted(below_C, place, right=True), last)


def accept(p_V: Tensor, q_V: Tensor, guess: int, generator: torch.Generator) -> int:
    """A token of distribution p out of a guess that was drawn from q: the guess with probability min(1, p / q), else
    one drawn from what p has above q, (p - q)+ (Leviathan et al. 2023, section 2.3 and appendix A.1).
    """
    p, q = float(p_V[guess]), float(q_V[guess])
    if float(torch.rand(1, generator=generator, dtype=torch.float64)) * q < p:
        return guess
    return int(draw_place((p_V - q_V).clamp_min(0), generator))
