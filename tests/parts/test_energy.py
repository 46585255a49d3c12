"""The energy of a text: what it learns from, and what the model writes for it."""

import torch

from nano_think.parts.energy import Energy
from tests.tiny import START, draw_tokens, tiny_chat


def test_what_is_written_for_a_row_depends_on_the_row_alone():
    """Not on torch's generator, on the rows beside it, or on whether the model is in training."""
    model, tokens_BT = tiny_chat(parts=["energy"], dropout=0.5), draw_tokens(3, 9)
    drawn_BN, read_BND = model.train().write(tokens_BT, 5)
    assert model.training and not (drawn_BN == START).any()
    torch.manual_seed(5)
    again_BN, _ = model.write(tokens_BT[1:2], 5)
    assert torch.equal(drawn_BN[1:2], again_BN)
    with torch.no_grad():
        whole = model.eval()(torch.cat([tokens_BT, drawn_BN], dim=1)).hidden[:, 9:]
    torch.testing.assert_close(read_BND, whole, atol=1e-4, rtol=1e-5)


def test_its_draws_are_the_models_own_distribution():
    """Of the first token, over many beginnings that mean the same to a model without a body."""
    model = tiny_chat(randomised=False)
    tokens_BT = torch.cat(
        [torch.full((600, 1), START), torch.arange(600)[:, None] % 49, torch.arange(600)[:, None] // 49], 1
    )
    drawn_BN, _ = model.write(tokens_BT, 1)
    p_V = model.logits(model(tokens_BT[:1]))[0, -1].index_fill(0, torch.tensor([START]), -torch.inf).softmax(0)
    share_V = torch.bincount(drawn_BN[:, 0], minlength=50) / 600
    assert (share_V - p_V).abs().max() < 0.06


def test_a_window_that_begins_a_document_in_its_middle_does_not_count():
    model = tiny_chat(parts=["energy"], length=4)
    windows = draw_tokens(2, 21, starts=(0,))
    learned_BT = windows[:, 1:] != START
    whole = model.learn(windows, learned_BT)[1]["energy.contrast"]
    windows[:, 11] = START
    none = model.learn(windows, learned_BT)[1]["energy.contrast"]
    assert whole > 0 and none == 0


def test_it_learns_to_tell_what_is_written_from_its_own_writing():
    """Text of one repeated word, which the model does not know: after some steps its energy is the lower one."""
    torch.manual_seed(0)
    model = tiny_chat(parts=["energy"], length=6).eval()
    part = model.parts["energy"]
    assert isinstance(part, Energy)
    optimizer = torch.optim.Adam(part.parameters(), lr=0.05)
    windows = torch.full((4, 21), 5)
    windows[:, 0] = START
    windows[:, 1] = torch.arange(4)
    for _ in range(15):
        optimizer.zero_grad()
        model.learn(windows, windows[:, 1:] != START)[1]["energy.contrast"].backward()
        optimizer.step()
    with torch.no_grad():
        _, own_BND = model.write(windows[:, :10], 6)
        real = part.judge(model(windows[:, :16]).hidden[:, 10:])["energy"].mean(dim=1)
        own = part.judge(own_BND)["energy"].mean(dim=1)
    assert (real < own).all()
