"""What would say again what was said."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from nano_think.nn.repeats import NONE, repeating_next
from tests.tiny import few


def plainly(tokens: list[int], documents: list[int], run: int) -> list[int]:
    """The twin: every earlier place is looked at."""
    found = []
    for t in range(len(tokens)):
        begin, last, token = documents.index(documents[t]), tokens[t - run + 2 : t + 1], NONE
        if t - begin >= run - 2:
            for j in range(begin + run - 2, t):
                token = tokens[j + 1] if tokens[j - run + 2 : j + 1] == last else token
        found.append(token)
    return found


@few(100)
@given(
    T=st.integers(1, 24), run=st.integers(2, 4), words=st.integers(1, 4), seed=st.integers(0, 999),
    share=st.sampled_from([0.0, 0.2]),
)  # fmt: skip
def test_it_is_what_looking_at_every_place_finds(T: int, run: int, words: int, seed: int, share: float):
    generator = torch.Generator().manual_seed(seed)
    tokens_BT = torch.randint(0, words, (3, T), generator=generator)
    documents_BT = (torch.rand(3, T, generator=generator) < share).cumsum(1)
    wanted = [plainly(row.tolist(), own.tolist(), run) for row, own in zip(tokens_BT, documents_BT, strict=True)]
    assert repeating_next(tokens_BT, documents_BT, run).tolist() == wanted


def test_of_no_window_there_is_nothing():
    assert repeating_next(torch.zeros(0, 5, dtype=torch.long), torch.zeros(0, 5, dtype=torch.long), 3).shape == (0, 5)
