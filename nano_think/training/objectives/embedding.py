"""What the training of the token table minimises."""

from torch import Tensor

from nano_think.models.embedder import Embedder
from nano_think.training.objectives import Objective


class EmbedderObjective(Objective):
    """Next-token loss of the embedder."""

    def __init__(self, embedder: Embedder, start_token: int):
        super().__init__(start_token)
        self.embedder = embedder

    def forward(self, tokens_BT1: Tensor, share: float) -> dict[str, Tensor]:
        return self.embedder.losses(tokens_BT1, self.start_token)
