"""Where a digit stands in its number."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nano_think.parts.digits import Digits, digit_places
from tests.tiny import START, VOCABULARY, few, tiny_head, tiny_part

TOKENS = [b"7", b"x", b"12", b"3 ", b"", "٣".encode(), b"0"]


def places_of(counts: list[int], new: list[bool], open_digits: int = 0) -> tuple[list[int], int]:
    """The twin: token by token."""
    found = []
    for count, begins in zip(counts, new, strict=True):
        open_digits = 0 if begins else open_digits
        found.append(open_digits if count else -1)
        open_digits = open_digits + count if count else 0
    return found, open_digits


@few(100)
@given(data=st.lists(st.tuples(st.sampled_from([0, 1, 1, 2]), st.booleans()), min_size=1, max_size=20),
       carried=st.integers(0, 3))  # fmt: skip
def test_places_are_those_of_counting(data: list[tuple[int, bool]], carried: int):
    counts, new = (list(part) for part in zip(*data, strict=True))
    place_BT, open_B = digit_places(torch.tensor([counts]), torch.tensor([new]), torch.tensor([carried]))
    assert (place_BT[0].tolist(), int(open_B)) == places_of(counts, new, carried)


def test_a_number_ends_with_its_document():
    place_BT, _ = digit_places(
        torch.tensor([[1, 1, 1, 1]]), torch.tensor([[True, False, True, False]]), torch.zeros(1, dtype=torch.long)
    )
    assert place_BT.tolist() == [[0, 1, 0, 1]]


def test_which_tokens_are_digits():
    """ASCII digits alone: of other characters the bytes are none."""
    part = tiny_part("digits")
    part.study(TOKENS + [b"y"] * (VOCABULARY - len(TOKENS)), tiny_head())
    assert part.digits_V[: len(TOKENS)].tolist() == [1, 0, 2, 0, 0, 0, 1]


@pytest.mark.parametrize("training", [True, False])
def test_places_are_shifted_while_training_alone(training: bool):
    part = tiny_part("digits", places=9, shift=8).train(training)
    assert isinstance(part, Digits)
    with torch.no_grad():
        part.places.copy_(torch.arange(9.0)[:, None].expand_as(part.places))
    torch.manual_seed(0)
    tokens_BT = torch.tensor([[START, 3, START - 1, 4]]).expand(40, -1)
    told_BT = part.read(torch.zeros(40, 4, 16), tokens_BT, torch.zeros(40, 4, dtype=torch.long))[..., 0]
    assert not told_BT[:, [0, 2]].any() and torch.equal(told_BT[:, 1], told_BT[:, 3])
    assert (told_BT[:, 1].unique().numel() > 5) == training


def test_digits_behind_the_last_place_share_it():
    part = tiny_part("digits", places=3, shift=0)
    with torch.no_grad():
        part.places.copy_(torch.arange(3.0)[:, None].expand_as(part.places))
    told = part.eval().read(torch.zeros(1, 5, 16), torch.tensor([[1, 2, 3, 4, 5]]), torch.zeros(1, 5, dtype=torch.long))
    assert told[0, :, 0].tolist() == [0, 1, 2, 2, 2]
