"""What the model says of its own coming loss."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nano_think.parts.self_model import SelfModel, coming_loss
from tests.tiny import START, draw_tokens, few, tiny_chat, tiny_part


@few(60)
@given(T=st.integers(1, 20), horizon=st.integers(1, 8), seed=st.integers(0, 999))
def test_the_coming_loss_is_a_mean_over_what_is_left_of_the_document(T: int, horizon: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    nll_BT, starts_BT = torch.rand(2, T, generator=generator), torch.rand(2, T + 1, generator=generator) < 0.2
    documents_BT, counted_BT = starts_BT[:, :-1].cumsum(1), ~starts_BT[:, 1:]
    got_BT, known_BT = coming_loss(nll_BT, counted_BT, documents_BT, horizon)
    for b in range(2):
        for t in range(T):
            ahead = range(t, min(T, t + horizon))
            own = [nll_BT[b, i].item() for i in ahead if documents_BT[b, i] == documents_BT[b, t] and counted_BT[b, i]]
            assert bool(known_BT[b, t]) == bool(own)
            if own:
                assert got_BT[b, t].item() == pytest.approx(sum(own) / len(own), abs=1e-5)


def test_it_only_looks_on_unless_it_may_touch():
    windows = draw_tokens(4, 21)
    for share in (0.0, 0.5):
        model = tiny_chat(parts=["self_model"], touch=share)
        _, terms = model.learn(windows, windows[:, 1:] != START)
        terms["self_model.surprise"].backward()
        assert any(one.grad is not None and one.grad.any() for one in model.backbone.parameters()) == bool(share)


def test_it_learns_which_texts_are_hard():
    """Hidden states whose first number is the loss to come: after some steps the expected loss follows it."""
    torch.manual_seed(0)
    part = tiny_part("self_model")
    assert isinstance(part, SelfModel)
    optimizer = torch.optim.Adam(part.parameters(), lr=0.05)
    came_N = torch.rand(200) * 3
    hidden_ND = torch.randn(200, 16)
    hidden_ND[:, 0] = came_N * 3
    for _ in range(60):
        mean_N, log_spread_N = part._predict(hidden_ND)
        optimizer.zero_grad()
        (0.5 * ((came_N - mean_N) / log_spread_N.exp()) ** 2 + log_spread_N).mean().backward()
        optimizer.step()
    told = part.judge(hidden_ND)
    assert torch.corrcoef(torch.stack([told["expected_loss"], came_N]))[0, 1] > 0.9
    assert told["expected_spread"].mean() < 0.5
