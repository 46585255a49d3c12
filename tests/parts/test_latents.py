"""A few tokens as one vector and back."""

import torch

from nano_think.parts.latents import Latents, energy_score
from tests.tiny import START, draw_tokens, tiny_chat, tiny_head


def test_the_energy_score_is_its_definition():
    torch.manual_seed(0)
    drawn, came = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 5)
    for b in range(2):
        for m in range(3):
            z, own = came[b, m], drawn[b, m]
            error = sum((z - one).norm() for one in own) * 2 / 4
            apart = sum((one - other).norm() for one in own for other in own) / (4 * 3)
            torch.testing.assert_close(energy_score(drawn, came)[b, m], error - apart, atol=1e-3, rtol=1e-4)


def test_the_energy_score_prefers_the_right_spread():
    """Of draws around nothing: those as wide as what comes, not the single best guess and not wider ones."""
    torch.manual_seed(0)
    came, noise = torch.randn(4000, 1, 3), torch.randn(4000, 1, 8, 3)
    scores = {spread: float(energy_score(spread * noise, came).mean()) for spread in (0.01, 1.0, 3.0)}
    assert scores[1.0] < scores[0.01] and scores[1.0] < scores[3.0]


def test_it_learns_to_read_pieces_back():
    """And neither the body nor the head learns from it."""
    torch.manual_seed(0)
    model = tiny_chat(parts=["latents"], dropout=0.0, noise=0.0, latent=16, weight=1.0)
    part, windows = model.parts["latents"], draw_tokens(8, 21)
    assert isinstance(part, Latents)
    optimizer = torch.optim.Adam(part.parameters(), lr=0.02)
    for _ in range(100):
        optimizer.zero_grad()
        _, terms = model.learn(windows, windows[:, 1:] != START)
        sum(terms.values()).backward()  # type: ignore[union-attr]
        optimizer.step()
    pieces = windows[:, 1:].unflatten(1, (-1, 4))
    assert (part.eval().read_back(pieces, tiny_head()) == pieces).float().mean() > 0.9
    assert all(parameter.grad is None for parameter in model.backbone.parameters())


def test_pieces_with_a_start_of_a_document_do_not_count():
    model = tiny_chat(parts=["latents"], dropout=0.0, noise=0.0)
    windows = draw_tokens(2, 5, starts=(0,))
    assert model.learn(windows, windows[:, 1:] != START)[1]["latents.reconstruction"] > 0
    windows[:, 2] = START
    assert model.learn(windows, windows[:, 1:] != START)[1]["latents.reconstruction"] == 0
