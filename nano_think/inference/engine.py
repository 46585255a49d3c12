"""The engine: token by token, with the weights of the experts beside each.

K experts
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from nano_think.inference.sampling import SamplingConfig, draw
from nano_think.models.think import NanoThink


@dataclass(frozen=True, slots=True)
class Step:
    """A drawn token and the routing weights (K) with which it was predicted."""

    token: int
    weights: tuple[float, ...]


@torch.inference_mode()
def generate(
    model: NanoThink, prompt: Sequence[int], window: int, max_new_tokens: int, sampling: SamplingConfig
) -> Iterator[Step]:
    """Draw up to `max_new_tokens` tokens after `prompt` (ids with their start token), until a new document begins.

    The model sees the last `window` tokens, as in training; each step computes them anew.
    """
    assert prompt, "a prompt holds at least the start token"
    device = model.head.table.device
    generator = torch.Generator().manual_seed(sampling.seed)
    tokens = list(prompt)
    for _ in range(max_new_tokens):
        routed = model(torch.tensor([tokens[-window:]], device=device))
        logits_V = model.head.logits(routed.hidden[0, -1])
        token = draw(logits_V, sampling, generator)
        if token == model.start_token:
            return
        tokens.append(token)
        yield Step(token, tuple(routed.weights[0, -1].tolist()))
