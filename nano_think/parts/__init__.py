"""Floor 3: the second design's unusual parts. One file here is one part of a chat model: its Config and its class.

Everything else (settings, checkpoints, caches, the steering of requests, tests) grows from `PARTS`. All parts are off
unless they are asked for, and one that is switched on changes nothing before it has learned something.

B batch, T tokens, D model width, K voices, R rows of a step, V vocabulary
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from nano_think.core.config import Config
from nano_think.core.registry import Registry
from nano_think.heads.language import LanguageHead
from nano_think.nn.cache import Rows, Slot, Span

PARTS: "Registry[type[Part]]" = Registry("part", "nano_think.parts")

Dials = Mapping[str, float]
"""What a request steers: the names of dials, and how far each is turned; what is not named stands at 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PartConfig(Config):
    """What every part can be asked; each part's own Config adds its shape and the weights of its losses."""


class Voices(NamedTuple):
    """What is said at each position: the hidden state for the head (B, T, D), and out of which voices (B, T, K, D) it
    was blended with which weights (B, T, K). Of rows of a step, R takes the place of B and T.
    """

    hidden: Tensor
    weights: Tensor
    streams: Tensor


Write = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""Beginnings (B, S) and a number N of tokens -> what the model writes behind each, (B, N), and the hidden states that
have read it, (B, N, D). What is drawn for a row depends on its beginning alone.
"""


class Lesson(NamedTuple):
    """What a part learns from: windows (B, T + 1), the documents of their first T tokens, which targets are learned,
    (B, T), and which are no start of another document, (B, T), the head, the hidden states (B, T, D) that came from the
    backbone, those that all parts made of them, and what lets the model write.
    """

    tokens_BT1: Tensor
    documents_BT: Tensor
    learned_BT: Tensor
    every_BT: Tensor
    head: LanguageHead
    body_BTD: Tensor
    hidden_BTD: Tensor
    write: Write

    def of_rows(self, chosen_B: Tensor) -> "Lesson":
        """The same of the windows for which it is true."""
        windows = {name: part[chosen_B] for name, part in self._asdict().items() if name not in ("head", "write")}
        return self._replace(**windows)

    def tally(self, values_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Each window's mean of the values where the mask is true, weighed by its targets that count, summed."""
        mean_B = (values_BT * mask_BT).sum(dim=1) / mask_BT.sum(dim=1).clamp_min(1)
        return (mean_B * self.learned_BT.sum(dim=1)).sum()

    @property
    def inputs_BT(self) -> Tensor:
        return self.tokens_BT1[:, :-1]

    @property
    def targets_BT(self) -> Tensor:
        return self.tokens_BT1[:, 1:]


class Part(nn.Module):
    """One part of a chat model. It may act before the backbone (`read`), behind it (`speak`), and tell figures of what
    was said (`judge`); what a part leaves alone it need not define. Subclasses set `Config` and take (config, width,
    vocabulary).

    `read` and `speak` have twins for new tokens behind a cache (`extend_`) and for one token of each of a few rows
    (`advance_`), which give what the whole sequence at once would give. `judge` looks at one position and needs none.

    dials: what a request may steer. names: the voices, where `speak` blends more than one. tells: what `judge` names.
    remembers: whether the part keeps anything of a text that has left the window.
    """

    Config: ClassVar[type[PartConfig]]
    dials: ClassVar[tuple[str, ...]] = ()
    names: ClassVar[tuple[str, ...]] = ()
    tells: ClassVar[tuple[str, ...]] = ()
    remembers: ClassVar[bool] = False

    def study(self, token_bytes: Sequence[bytes], head: LanguageHead) -> None:
        """Learn what the ids of the vocabulary stand for, before the training."""

    def read(self, x_BTD: Tensor, tokens_BT: Tensor, documents_BT: Tensor) -> Tensor:
        """What the backbone is given for the embeddings x, (B, T, D)."""
        return x_BTD

    def hide(self, documents_BT: Tensor, tokens_BT: Tensor) -> Tensor:
        """The documents as the backbone is to see them while it learns, (B, T): a part that remembers may cut them."""
        return documents_BT

    def speak(self, said: Voices, documents_BT: Tensor, dials: Dials) -> Voices:
        """What the head is given for what was said so far."""
        return said

    def judge(self, hidden: Tensor) -> dict[str, Tensor]:
        """Named figures of hidden states (..., D), (...) each."""
        return {}

    def losses(self, lesson: Lesson) -> dict[str, Tensor]:
        """The named terms that the part adds to the loss, weighted: they are summed.

        Each is a mean over the targets that count, `lesson.learned_BT`, and what it says of a window does not depend on
        the windows beside it: parts of a batch then make the same step as the whole.
        """
        return {}

    def start(self, batch: int, device: torch.device | str) -> Any:
        """An empty cache for `batch` rows."""
        return Nothing()

    def steer(self, cache: Any, dials: Dials) -> None:
        """Turn the dials of all rows of a cache, for what comes."""

    def carried(self, cache: Any) -> dict[str, Tensor]:
        """What a cache of one row keeps of a text that has left its window: nothing unless the part `remembers`."""
        return {}

    def carry(self, cache: Any, kept: Mapping[str, Tensor]) -> None:
        """Let an empty cache of one row begin with what another has `carried`; its first document goes on from it."""

    def extend_read(self, x_BTD: Tensor, tokens_BT: Tensor, span: Span, cache: Any) -> Tensor:
        return x_BTD

    def advance_read(self, x_RD: Tensor, tokens_R: Tensor, rows: Rows, cache: Any) -> Tensor:
        return x_RD

    def extend_speak(self, said: Voices, span: Span, cache: Any) -> Voices:
        return said

    def advance_speak(self, said: Voices, rows: Rows, cache: Any) -> Voices:
        return said


class Nothing:
    """The cache of a part that remembers nothing."""

    def join(self, one: "Nothing", slot: Slot) -> None:
        """Nothing is kept, and nothing joins it."""

    def rewind(self, tokens: int) -> None:
        """Nothing is kept, and nothing is taken back."""


def one_voice(hidden: Tensor) -> Voices:
    """What a single voice says, (..., D)."""
    return Voices(hidden, torch.ones_like(hidden[..., :1]), hidden[..., None, :])


def build_part(name: str, config: PartConfig, width: int, vocabulary: int) -> Part:
    """The part called `name`, freshly initialised from torch's global generator."""
    return PARTS[name](config, width, vocabulary)  # type: ignore[call-arg, arg-type]
