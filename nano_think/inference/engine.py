"""The engine: token by token, with the weights of the experts beside each.

K experts
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from nano_think.inference.sampling import SamplingConfig, draw
from nano_think.models.think import Cache, NanoThink, Routed

PIECE = 512


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

    Each step reads the one token before behind a cache, and predicts what the model would predict from
    `tokens[context_start(len(tokens), window):]` at once.
    """
    assert prompt, "a prompt holds at least the start token"
    generator = torch.Generator().manual_seed(sampling.seed)
    tokens, first, cache = list(prompt), 0, model.start(1, window)
    for _ in range(max_new_tokens):
        if context_start(len(tokens), window) > first:
            first, cache = context_start(len(tokens), window), model.start(1, window)
        routed = read(model, tokens[first + cache.timeline.length :], cache)
        token = draw(model.logits(routed.last())[0, -1], sampling, generator)
        if token == model.start_token:
            return
        tokens.append(token)
        yield Step(token, tuple(routed.weights[0, -1].tolist()))


def context_start(length: int, window: int) -> int:
    """The first of `length` tokens that the next prediction depends on.

    Up to `window` tokens that is the first of all. Beyond, no position was trained: then the older half is dropped and
    the newer half read again, so the context is always from half a window to a whole one, and a cache is filled anew
    once per half window.
    """
    hop = window - window // 2
    return hop * max(0, -((window - length) // hop))


def read(model: NanoThink, tokens: Sequence[int], cache: Cache) -> Routed:
    """Read tokens (one row) behind a cache, in pieces that keep the masks small; what the last piece gave."""
    assert tokens, "nothing to read"
    pieces = torch.tensor([tokens], device=model.head.table.device).split(PIECE, dim=1)
    for piece in pieces:
        routed = model.extend(piece, cache)
    return routed
