"""Which tokens a prediction depends on, and that each of them is read once."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nano_think.inference import context
from nano_think.inference.context import Context, context_start
from tests.tiny import START, few, tiny_mixture


@few(60)
@given(length=st.integers(1, 400), window=st.integers(2, 70))
def test_context_is_from_half_a_window_to_a_whole_one(length: int, window: int):
    """All of a text that fits; else more than half a window, and it begins anew once per half window at most."""
    first = context_start(length, window)
    assert first == 0 if length <= window else window // 2 < length - first <= window
    assert context_start(length + 1, window) - first in (0, window - window // 2)


def test_each_token_is_read_once_until_the_window_is_full(monkeypatch: pytest.MonkeyPatch):
    model, pieces = tiny_mixture(), []
    extend = model.extend
    monkeypatch.setattr(model, "extend", lambda t, cache: pieces.append(t.shape[1]) or extend(t, cache))
    reader = Context(model, window=6)
    for length in range(3, 12):
        reader.predict(list(range(length)))
    assert pieces == [3, 1, 1, 1, 4, 1, 1, 4, 1]


@torch.no_grad()
def test_a_long_text_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch):
    model, tokens = tiny_mixture(), [START, *range(40)]
    monkeypatch.setattr(context, "PIECE", 7)
    got = Context(model, window=64).predict(tokens)
    torch.testing.assert_close(got.hidden, model(torch.tensor([tokens])).hidden[:, -1:], atol=1e-4, rtol=1e-5)
