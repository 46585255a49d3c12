"""What the training of an expert minimises: a module from windows (B, T + 1) and the share of the training done to
named loss terms.
"""

from torch import Tensor, nn

from nano_think.experts import Expert
from nano_think.heads.language import LanguageHead


class ExpertObjective(nn.Module):
    """An expert's own losses under the frozen head."""

    def __init__(self, expert: Expert, head: LanguageHead, start_token: int):
        super().__init__()
        self.expert, self.head, self.start_token = expert, head, start_token

    def forward(self, tokens_BT1: Tensor, share: float) -> dict[str, Tensor]:
        return self.expert.losses(tokens_BT1, self.start_token, self.head)
