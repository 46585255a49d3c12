"""Speculative decoding: one expert guesses the next tokens, and the mixture judges all of them in one step.

What is drawn has exactly the mixture's distribution (Leviathan et al. 2023, Fast inference from transformers via
speculative decoding, section 2.3): each guess is told with the distribution that it was drawn from, given everything
that it was made from, and `sampling.accept` keeps it or draws another token.

K tokens of a block, D model width, V vocabulary
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from nano_think.core.errors import UsageError, nearest
from nano_think.experts import Expert
from nano_think.experts.diffuser import Diffuser
from nano_think.inference.blocks import denoise
from nano_think.inference.sampling import SamplingConfig, distribution, draw_place
from nano_think.inference.slots import Slots
from nano_think.models.chat import Model
from nano_think.models.think import NanoThink


class Guess(NamedTuple):
    """A token that may come next, and the distribution that it was drawn from, (V)."""

    token: int
    q_V: Tensor


@dataclass
class Tally:
    """What drafting has come to: how often the mixture judged, how many guesses it saw, and how many it kept."""

    judged: int = 0
    guessed: int = 0
    kept: int = 0

    def add(self, guessed: int, kept: int) -> None:
        self.judged, self.guessed, self.kept = self.judged + 1, self.guessed + guessed, self.kept + kept


class Drafter:
    """An expert of a mixture that guesses up to `tokens` tokens at a time, behind the mixture's own cache.

    A diffuser guesses them as one block, in `steps` answers of DDIM: given the noise, which no token depends on
    otherwise, each is drawn by itself from its share of the last answer. Any other expert guesses one after another, as
    it would write alone, and its cache then takes them back. `UsageError` where there is no such expert.
    """

    def __init__(self, model: Model, expert: str, tokens: int = 4, steps: int = 1):
        names = model.names if isinstance(model, NanoThink) else []
        if expert not in names:
            raise UsageError(f"draft: wanted an expert of a mixture, got '{expert}'{nearest(expert, names)}")
        if tokens < 1 or steps < 1:
            raise UsageError(f"draft: wanted 1 or more tokens and steps, got {tokens} and {steps}")
        assert isinstance(model, NanoThink)
        self.tokens, self.tally = tokens, Tally()
        self._name, self._steps, self._head, self._ends = expert, steps, model.head, model.start_token
        self._expert: Expert = model.experts[expert]  # type: ignore[assignment]

    def guess(
        self, slots: Slots, slot: int, last: int, most: int, sampling: SamplingConfig, generator: torch.Generator
    ) -> list[Guess]:
        """Guesses behind the text of a slot and its `last` token, which was not read yet: `most` or, where the document
        ends, fewer.
        """
        if isinstance(self._expert, Diffuser):
            return self._guess_block(self._expert, slots, slot, last, most, sampling, generator)
        return self._guess_in_turn(slots, slot, last, most, sampling, generator)

    def _guess_in_turn(
        self, slots: Slots, slot: int, last: int, most: int, sampling: SamplingConfig, generator: torch.Generator
    ) -> list[Guess]:
        cache, tokens, guesses = slots.cache.experts[self._name], [last], list[Guess]()
        while len(guesses) < most and (not guesses or tokens[-1] != self._ends):
            row = slots.rows(slot, tokens).last()
            hidden_1D = self._expert.advance(self._embed(tokens[-1:]), row, cache)
            guesses.append(draw_guess(self._head.logits_of_rows(hidden_1D)[0].cpu(), sampling, generator))
            tokens.append(guesses[-1].token)
        cache.rewind(len(guesses))
        return guesses

    def _guess_block(
        self, expert: Diffuser, slots: Slots, slot: int, last: int, most: int,
        sampling: SamplingConfig, generator: torch.Generator,
    ) -> list[Guess]:  # fmt: skip
        cache, row, device = slots.cache.experts[self._name], slots.rows(slot, [last]), self._head.table.device
        query_KD = expert.foresee(self._embed([last]), row, most, cache)
        answer = partial(expert.answer_rows, ahead=row.ahead(most), cache=cache)
        noise_KD = torch.randn(most, self._head.width, generator=generator).to(device)
        hidden_KD = denoise(expert, self._head, answer, query_KD, noise_KD, self._steps)
        guesses = list[Guess]()
        for logits_V in self._head.logits_of_rows(hidden_KD).cpu():
            guesses.append(draw_guess(logits_V, sampling, generator))
            if guesses[-1].token == self._ends:
                break
        return guesses

    def _embed(self, tokens: list[int]) -> Tensor:
        return self._head.embed(torch.tensor(tokens, device=self._head.table.device))


def draw_guess(logits_V: Tensor, sampling: SamplingConfig, generator: torch.Generator) -> Guess:
    """A token, as a text would be drawn without a repetition penalty."""
    q_V = distribution(logits_V, sampling)
    return Guess(int(draw_place(q_V, generator)), q_V)
