"""From logits to a token. V vocabulary."""

from dataclasses import dataclass

import torch
from torch import Tensor

from nano_think.core.config import Config


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingConfig(Config):
    """How the next token is drawn."""

    temperature: float = 0.8
    """Divides the logits (nats); 0 takes the most likely token."""
    top_k: int = 50
    """Draw from this many most likely tokens; 0 from all (tokens)."""
    top_p: float = 0.95
    """Draw from the fewest tokens whose probabilities reach this sum (0 to 1)."""
    seed: int = 0
    """Seed of the draws: the same seed, model and prompt give the same text."""

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise ValueError(f"temperature: wanted 0 or more, got {self.temperature}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed: wanted 0 to {2**63 - 1}, got {self.seed}")
        if self.top_k < 0:
            raise ValueError(f"top_k: wanted 0 or more, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: wanted a share above 0 and up to 1, got {self.top_p}")


def distribution(logits_V: Tensor, config: SamplingConfig) -> Tensor:
    """The probabilities to draw from, (V): temperature, then top-k, then top-p (Holtzman et al. 2020)."""
    if config.temperature == 0:
        return torch.nn.functional.one_hot(logits_V.argmax(), len(logits_V)).float()
    # Below a millionth fp32 would divide by 0.
    logits_V = (logits_V.float() - logits_V.max()) / max(config.temperature, 1e-6)
    if config.top_k and config.top_k < len(logits_V):
        least = logits_V.topk(config.top_k).values[-1]
        logits_V = logits_V.masked_fill(logits_V < least, float("-inf"))
    p_V = logits_V.softmax(dim=-1)
    if config.top_p == 1:
        return p_V
    ordered_V, token_V = p_V.sort(descending=True, stable=True)
    beyond_V = ordered_V.cumsum(0) - ordered_V >= config.top_p
    p_V = p_V.index_fill(0, token_V[beyond_V], 0.0)
    return p_V / p_V.sum()


def draw(logits_V: Tensor, config: SamplingConfig, generator: torch.Generator) -> int:
    """One token id."""
    return int(torch.multinomial(distribution(logits_V, config).cpu(), 1, generator=generator))
