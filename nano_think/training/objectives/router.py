"""What the training of the router minimises.

B batch, T tokens, K experts
"""

import torch
from torch import Tensor, nn

from nano_think.experts import masked_mean
from nano_think.models.think import NanoThink, Routed
from nano_think.training.objectives import Objective


class RouterObjective(Objective):
    """Next-token loss of the mixture, and a bonus for the entropy of the weights that fades to nothing.

    expert_dropout: chance that a window goes without one of the experts, so that the mixture can also run without it.
    entropy: weight of the bonus at the start (nats); it falls linearly to 0 within the first fifth of the training.
    """

    def __init__(self, model: NanoThink, expert_dropout: float, entropy: float):
        super().__init__(model.start_token)
        self.model, self.expert_dropout, self.entropy = model, expert_dropout, entropy

    def forward(self, tokens_BT1: Tensor, share: float) -> dict[str, Tensor]:
        inputs_BT, targets_BT = tokens_BT1[:, :-1], tokens_BT1[:, 1:]
        scored_BT = targets_BT != self.start_token
        routed = self.model(inputs_BT, self._drop(len(inputs_BT), inputs_BT.device))
        # Not torch.special.entr: its gradient at a weight of 0, an expert that was left out, is infinite.
        entropy_BT = -(routed.weights * routed.weights.clamp_min(1e-9).log()).sum(-1)
        bonus = self.entropy * max(0.0, 1 - 5 * share)
        return {
            "next_token": self._next_token(routed, targets_BT, scored_BT),
            "entropy": -bonus * masked_mean(entropy_BT, scored_BT),
        }

    def _next_token(self, routed: Routed, targets_BT: Tensor, scored_BT: Tensor) -> Tensor:
        if self.model.router.fusion == "hidden":
            return self.model.head.mean_nll(routed.hidden, targets_BT, scored_BT)
        return masked_mean(self.model.nll(routed, targets_BT), scored_BT)

    def _drop(self, B: int, device: torch.device) -> Tensor | None:
        K = len(self.model.names)
        if K < 2 or not self.expert_dropout or not self.training:
            return None
        left_out_BK = nn.functional.one_hot(torch.randint(K, (B,), device=device), K).bool()
        return left_out_BK & (torch.rand(B, 1, device=device) < self.expert_dropout)
