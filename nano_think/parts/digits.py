"""Abacus embeddings: each digit is told its place in its number (McLeish et al. 2024).

Places count from the first digit that is read, so that digits of one weight have one place where numbers are written
with the last digit first, as the paper does for sums.

B batch, T tokens, D model width, V vocabulary, R rows of a step
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nano_think.heads.language import LanguageHead
from nano_think.nn.cache import Rows, Slot, Span, Trail
from nano_think.nn.documents import document_changes
from nano_think.parts import PARTS, Part, PartConfig

NONE = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class DigitsConfig(PartConfig):
    """Embeddings of the places of digits."""

    places: int = 48
    """Places that are told apart; digits behind them share the last one (digits)."""
    shift: int = 24
    """While training, the first digits of all numbers of a window have one random place from 0 up to this, so that
    places behind the longest number that is trained on are learned too (digits)."""

    def __post_init__(self) -> None:
        if not 0 <= self.shift < self.places:
            raise ValueError(f"shift: wanted 0 up to {self.places - 1} (places - 1), got {self.shift}")


@PARTS.register("digits")
class Digits(Part):
    """x + A[digits of its number before the token + shift] for tokens that are digits, where A, (P, D), is 0 at first.

    A token of several digits has the place of its first one.
    """

    Config = DigitsConfig
    digits_V: Tensor

    def __init__(self, config: DigitsConfig, width: int, vocabulary: int):
        super().__init__()
        self.shift = config.shift
        self.places = nn.Parameter(torch.zeros(config.places, width))
        self.register_buffer("digits_V", torch.zeros(vocabulary, dtype=torch.long))

    def study(self, token_bytes: Sequence[bytes], head: LanguageHead) -> None:
        """Which tokens are digits, and how many each holds."""
        counts = [len(piece) if piece.isdigit() else 0 for piece in token_bytes]
        self.digits_V.copy_(torch.tensor(counts))

    def read(self, x_BTD: Tensor, tokens_BT: Tensor, documents_BT: Tensor) -> Tensor:
        none_B = tokens_BT.new_zeros(len(tokens_BT))
        place_BT, _ = digit_places(self.digits_V[tokens_BT], document_changes(documents_BT), none_B)
        shift_B1 = torch.randint(self.shift + 1, (len(tokens_BT), 1), device=x_BTD.device) if self.training else 0
        return self._told(x_BTD, place_BT, shift_B1)

    def start(self, batch: int, device: torch.device | str) -> "OpenNumber":
        return OpenNumber(torch.zeros(batch, dtype=torch.long, device=device))

    def extend_read(self, x_BTD: Tensor, tokens_BT: Tensor, span: Span, cache: "OpenNumber") -> Tensor:
        last_B = span.documents_BS[:, span.first - 1] if span.first else None
        new_BT = document_changes(span.documents_BT, last_B)
        place_BT, cache.digits_B = digit_places(self.digits_V[tokens_BT], new_BT, cache.digits_B)
        return self._told(x_BTD, place_BT, 0)

    def advance_read(self, x_RD: Tensor, tokens_R: Tensor, rows: Rows, cache: "OpenNumber") -> Tensor:
        place_R1 = cache.advance(self.digits_V[tokens_R][:, None], rows)
        return self._told(x_RD, place_R1[:, 0], 0)

    def _told(self, x: Tensor, place: Tensor, shift: Tensor | int) -> Tensor:
        """Embeddings (..., D) of tokens at the places (...), with what tells these; NONE tells nothing."""
        told = self.places[(place + shift).clamp(0, len(self.places) - 1)]
        return x + told.masked_fill((place == NONE)[..., None], 0.0)


class OpenNumber:
    """How many digits the number holds that each row ends with, (B): 0 where it ends with none."""

    def __init__(self, digits_B: Tensor):
        self.digits_B = digits_B
        self._trail = Trail()

    def join(self, one: "OpenNumber", slot: Slot) -> None:
        self.digits_B[slot.number] = one.digits_B[0]

    def advance(self, count_R1: Tensor, rows: Rows) -> Tensor:
        """`digit_places` of one token of each of R rows, (R, 1)."""
        return self._trail.in_turn(self._advance, count_R1, rows, [self.digits_B])

    def rewind(self, tokens: int) -> None:
        """Take the last tentative tokens back."""
        self._trail.rewind(tokens, [self.digits_B])

    def _advance(self, count_R1: Tensor, rows: Rows) -> Tensor:
        open_R = self.digits_B[rows.slot_R]
        place_R1, self.digits_B[rows.slot_R] = digit_places(count_R1, rows.fresh_R[:, None], open_R)
        return place_R1


def digit_places(count_BT: Tensor, new_BT: Tensor, open_B: Tensor) -> tuple[Tensor, Tensor]:
    """How many digits of its number come before each token of digits, (B, T), NONE for other tokens; and the digits of
    the number that each row ends with, (B).

    count_BT: digits that a token holds; new_BT is True where it begins a document; open_B: digits of the number that
    each row ended with before.
    """
    count_BS = torch.cat([open_B[:, None], count_BT], dim=1)
    before_BS, number_BS = count_BS.cumsum(1) - count_BS, count_BS > 0
    begins_BS = torch.ones_like(number_BS)
    begins_BS[:, 1:] = new_BT | ~number_BS[:, :-1]
    # Digits before the latest token that begins a number: the count only grows.
    base_BS = torch.where(begins_BS & number_BS, before_BS, 0).cummax(dim=1).values
    place_BS = torch.where(number_BS, before_BS - base_BS, NONE)
    ends_B = torch.where(number_BS[:, -1], place_BS[:, -1] + count_BS[:, -1], 0)
    return place_BS[:, 1:], ends_B
