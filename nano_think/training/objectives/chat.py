"""What the training on chats minimises (SFT).

B batch, T tokens
"""

from typing import NamedTuple

import torch
from torch import Tensor

from nano_think.experts import masked_mean
from nano_think.models.chat import Chat, Model
from nano_think.models.think import Routed
from nano_think.training.objectives import Objective


class Marks(NamedTuple):
    """The ids that tell who speaks: what opens a document, the assistant's message, and what ends it."""

    start: int
    opens: int
    ends: int


def said_by_assistant(tokens_BT: Tensor, marks: Marks) -> Tensor:
    """True where the assistant speaks, its end token included, (B, T).

    Nothing that is typed becomes one of the marks, so the ids alone tell it: the last mark before a token, of its own
    document, opens a message of the assistant.
    """
    told_BT1 = torch.cat([torch.full_like(tokens_BT[:, :1], marks.start), tokens_BT], dim=1)
    is_mark_BT1 = (told_BT1 == marks.start) | (told_BT1 == marks.opens) | (told_BT1 == marks.ends)
    place_BT1 = torch.arange(told_BT1.shape[1], device=told_BT1.device).expand_as(told_BT1)
    latest_BT1 = torch.where(is_mark_BT1, place_BT1, 0).cummax(dim=1).values
    before_BT = told_BT1.gather(1, latest_BT1[:, :-1])
    mark_BT = (tokens_BT == marks.start) | (tokens_BT == marks.opens)
    return (before_BT == marks.opens) & ~mark_BT


class ChatObjective(Objective):
    """Next-token loss of what the assistant says, and of nothing else; and the losses of the model's parts."""

    term = "assistant"

    def __init__(self, model: Model, marks: Marks):
        super().__init__(model.start_token)
        assert marks.start == model.start_token
        self.model, self.marks = model, marks

    def forward(self, tokens_BT1: Tensor, share: float) -> dict[str, Tensor]:
        if not isinstance(self.model, Chat) or not len(self.model.parts):
            return {self.term: self.validation_loss(tokens_BT1)}
        routed, terms = self.model.learn(tokens_BT1, self._said(tokens_BT1))
        return {self.term: self._loss(routed, tokens_BT1)} | terms

    def validation_loss(self, tokens_BT1: Tensor) -> Tensor:
        """Of what is said alone, whatever else the parts learn."""
        return self._loss(self.model(tokens_BT1[:, :-1]), tokens_BT1)

    def _loss(self, routed: Routed, tokens_BT1: Tensor) -> Tensor:
        targets_BT, said_BT = tokens_BT1[:, 1:], self._said(tokens_BT1)
        if self.model.fusion == "hidden":
            return self.model.head.mean_nll(routed.hidden, targets_BT, said_BT)
        return masked_mean(self.model.nll(routed, targets_BT), said_BT)

    def count_predicted(self, tokens_BT1: Tensor) -> Tensor:
        return self._said(tokens_BT1).sum()

    def _said(self, tokens_BT1: Tensor) -> Tensor:
        return said_by_assistant(tokens_BT1, self.marks)[:, 1:]


class TextObjective(ChatObjective):
    """The same of plain text, which nobody says: every token is learned."""

    term = "next_token"

    def _said(self, tokens_BT1: Tensor) -> Tensor:
        return tokens_BT1[:, 1:] != self.start_token
