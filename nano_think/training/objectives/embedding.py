"""What the training of the token table minimises: a module from windows (B, T + 1) and the share of the training done
to named loss terms.
"""

from torch import Tensor, nn

from nano_think.models.embedder import Embedder


class EmbedderObjective(nn.Module):
    """Next-token loss of the embedder."""

    def __init__(self, embedder: Embedder, start_token: int):
        super().__init__()
        self.embedder, self.start_token = embedder, start_token

    def forward(self, tokens_BT1: Tensor, share: float) -> dict[str, Tensor]:
        return self.embedder.losses(tokens_BT1, self.start_token)
