"""What the training of the router minimises.

B batch, T tokens, D model width, K experts
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nano_think.experts import masked_mean
from nano_think.models.fusion import blended_nll, logits_of_each, mixed_nll, nll_of_each
from nano_think.models.think import NanoThink
from nano_think.training.objectives import Objective

if TYPE_CHECKING:
    from nano_think.training.streams import WindowCache

# What the windows of a batch gave, (B, ...), or a tensor for each of them, which it would take time to bring together.
Part = Tensor | list[Tensor]


class RouterObjective(Objective):
    """Next-token loss of the mixture, and a bonus for the entropy of the weights that fades to nothing.

    expert_dropout: chance that a window goes without one of the experts, so that the mixture can also run without it.
    entropy: weight of the bonus at the start (nats); it falls linearly to 0 within the first fifth of the training.

    `remember` gives it a cache: what the experts make of a window is then computed when it first comes, and read after.
    With logits among what is kept, a step whose weights weigh hiddens does without the head; the losses are the same
    but for rounding.
    """

    def __init__(self, model: NanoThink, expert_dropout: float, entropy: float):
        super().__init__(model.start_token)
        self.model, self.expert_dropout, self.entropy = model, expert_dropout, entropy
        self.cache: WindowCache | None = None
        self.begun = False
        self.with_logits = False

    def remember(self, cache: "WindowCache", with_logits: bool = False) -> None:
        """Use a cache from the first step on (`begin`), for the windows that are trained on; it is made for what
        `read_experts` gives with or without logits.
        """
        self.cache, self.steps_differ, self.with_logits = cache, True, with_logits

    def forget(self) -> None:
        """Compute the experts at every step from now on: they are to learn."""
        self.cache, self.steps_differ, self.with_logits = None, False, False

    def begin(self) -> None:
        self.begun = True

    def forward(self, tokens_BT1: Tensor, share: float) -> dict[str, Tensor]:
        inputs_BT, targets_BT = tokens_BT1[:, :-1], tokens_BT1[:, 1:]
        scored_BT = targets_BT != self.start_token
        streams, *more = self._recall(tokens_BT1)
        streams_BTKD, dropped_BK = _whole(streams), self._drop(len(inputs_BT), inputs_BT.device)
        weights_BTK = self.model.weigh(inputs_BT, dropped_BK, streams_BTKD)
        # Not torch.special.entr: its gradient at a weight of 0, an expert that was left out, is infinite.
        entropy_BT = -(weights_BTK * weights_BTK.clamp_min(1e-9).log()).sum(-1)
        bonus = self.entropy * max(0.0, 1 - 5 * share)
        return {
            "next_token": self._next_token(weights_BTK, streams_BTKD, more, targets_BT, scored_BT),
            "entropy": -bonus * masked_mean(entropy_BT, scored_BT),
        }

    def read_experts(self, tokens_BT1: Tensor, with_logits: bool = False) -> list[Tensor]:
        """All that is frozen: the experts' hiddens, (B, T, K, D); where distributions are mixed, the nats of each for
        the targets, (B, T, K), and else, if wanted, the logits of each, (B, T, K, V).
        """
        streams_BTKD = self.model.read_experts(tokens_BT1[:, :-1])
        if self.model.router.fusion == "hidden":
            return [streams_BTKD, *([logits_of_each(self.model.head, streams_BTKD)] if with_logits else [])]
        return [streams_BTKD, nll_of_each(self.model.head, streams_BTKD, tokens_BT1[:, 1:])]

    def _recall(self, tokens_BT1: Tensor) -> Sequence[Part]:
        """`read_experts`, or what it gave for these windows before."""
        if self.cache is None or not self.begun or not self.training:
            return self.read_experts(tokens_BT1)
        kept = self.cache.fetch(tokens_BT1)
        if kept is not None:
            return [[value.to(tokens_BT1.device) for value in part] for part in kept]
        # Also where they are computed now, so that no bit depends on what a crash left of the cache.
        parts = self.read_experts(tokens_BT1, self.with_logits)
        self.cache.keep(tokens_BT1, parts)
        return parts

    def _next_token(
        self, weights_BTK: Tensor, streams_BTKD: Tensor, more: list[Part], targets_BT: Tensor, scored_BT: Tensor
    ) -> Tensor:
        head, blend = self.model.head, self.model.router.blend
        if self.model.fusion == "probability":
            return masked_mean(mixed_nll(weights_BTK, _whole(more[0])), scored_BT)
        if not more:
            return head.mean_nll(blend.fuse(weights_BTK, streams_BTKD), targets_BT, scored_BT)
        return masked_mean(blended_nll(head, blend.scale * weights_BTK, more[0], targets_BT), scored_BT)

    def _drop(self, B: int, device: torch.device) -> Tensor | None:
        K = len(self.model.names)
        if K < 2 or not self.expert_dropout or not self.training:
            return None
        left_out_BK = nn.functional.one_hot(torch.randint(K, (B,), device=device), K).bool()
        return left_out_BK & (torch.rand(B, 1, device=device) < self.expert_dropout)


def _whole(part: Part) -> Tensor:
    """What all windows gave as one tensor, (B, ...)."""
    return part if isinstance(part, Tensor) else torch.stack(part)
