"""What each training minimises. One file each: whoever trains an expert does not depend on the router's.

B batch, T tokens
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn


class Objective(nn.Module):
    """Windows of token ids, (B, T + 1), and the share of the training that is done (0 to 1) -> named terms of the loss,
    which are summed. Each is a mean over the predicted tokens.

    steps_differ: whether some steps compute less than others, so that operations per token say nothing of the speed.
    """

    def __init__(self, start_token: int):
        super().__init__()
        self.start_token = start_token
        self.steps_differ = False

    def forward(self, tokens_BT1: Tensor, share: float) -> dict[str, Tensor]:
        raise AssertionError(f"{type(self).__name__} has no forward")

    def begin(self) -> None:
        """The training's own steps begin: whatever was computed before was an estimate or a trial."""

    def count_predicted(self, tokens_BT1: Tensor) -> Tensor:
        """How many tokens the means are over, which is what a part of a batch weighs: a start token is no target."""
        return (tokens_BT1[:, 1:] != self.start_token).sum()

    def cases(self) -> Iterator[float]:
        """As `Expert.cases`, of what this objective computes."""
        yield 1.0

    def validation_loss(self, tokens_BT1: Tensor) -> Tensor:
        """What a validation compares, in evaluation mode: the mean next-token loss in nats, drawing nothing."""
        return torch.stack(list(self(tokens_BT1, 1.0).values())).sum()
