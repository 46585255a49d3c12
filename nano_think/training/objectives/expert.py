"""What the training of an expert minimises."""

from torch import Tensor

from nano_think.experts import Expert
from nano_think.heads.language import LanguageHead
from nano_think.training.objectives import Objective


class ExpertObjective(Objective):
    """An expert's own losses under the frozen head."""

    def __init__(self, expert: Expert, head: LanguageHead, start_token: int):
        super().__init__(start_token)
        self.expert, self.head = expert, head

    def forward(self, tokens_BT1: Tensor, share: float) -> dict[str, Tensor]:
        return self.expert.losses(tokens_BT1, self.start_token, self.head)
