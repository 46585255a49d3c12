"""What the training of an expert minimises."""

from collections.abc import Iterator

from torch import Tensor

from nano_think.experts import Expert, masked_mean
from nano_think.heads.language import LanguageHead
from nano_think.nn.documents import number_documents
from nano_think.training.objectives import Objective


class ExpertObjective(Objective):
    """An expert's own losses under the frozen head."""

    def __init__(self, expert: Expert, head: LanguageHead, start_token: int):
        super().__init__(start_token)
        self.expert, self.head = expert, head

    def forward(self, tokens_BT1: Tensor, share: float) -> dict[str, Tensor]:
        return self.expert.losses(tokens_BT1, self.start_token, self.head)

    def cases(self) -> Iterator[float]:
        return self.expert.cases()

    def validation_loss(self, tokens_BT1: Tensor) -> Tensor:
        """Of the hidden states that the mixture fuses, whatever else the expert is trained on."""
        inputs_BT, targets_BT = tokens_BT1[:, :-1], tokens_BT1[:, 1:]
        hidden_BTD = self.expert(self.head.embed(inputs_BT), number_documents(inputs_BT, self.start_token))
        return masked_mean(self.head.nll(hidden_BTD, targets_BT), targets_BT != self.start_token)
