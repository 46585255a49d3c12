"""A picture before the words, in one sequence: causal, and the model without pictures stays as it is."""

import pytest
import torch

from nano_think.models.sight import Sight
from nano_think.parts import PARTS
from tests.perturbation import randomise_zeros
from tests.tiny import START, draw_tokens, tiny_chat

P = 16


def sight(*parts: str) -> Sight:
    return randomise_zeros(Sight(tiny_chat(parts=parts), 2)).eval()  # type: ignore


@pytest.mark.parametrize("parts", [(), tuple(PARTS)], ids=["plain", "parts"])
@torch.no_grad()
def test_no_position_sees_what_comes_after_it(parts):
    """A patch changes nothing before it, a word nothing before it, bit for bit; and what comes after moves."""
    model, pictures, tokens_BT = sight(*parts), torch.rand(2, 8, 8), draw_tokens(2, 6)
    before = model(pictures, tokens_BT).hidden
    assert before.shape == (2, P + 6, 16)
    for patch in (0, 5, 15):
        other = pictures.clone()
        y, x = divmod(patch, 4)
        other[:, 2 * y, 2 * x + 1] += 0.5
        after = model(other, tokens_BT).hidden
        assert torch.equal(after[:, : 1 + patch], before[:, : 1 + patch])
        assert (after[:, 1 + patch] != before[:, 1 + patch]).any() and (after[:, -1] != before[:, -1]).any()
    for word in (1, 4):
        other_BT = tokens_BT.clone()
        other_BT[:, word] = (other_BT[:, word] + 1) % START
        after = model(pictures, other_BT).hidden
        assert torch.equal(after[:, : P + word], before[:, : P + word])
        assert (after[:, P + word] != before[:, P + word]).any()


@torch.no_grad()
def test_a_word_is_predicted_by_what_stands_before_it():
    """The first behind the picture by the last patch, as `name` reads it."""
    model, pictures = sight(), torch.rand(4, 8, 8)
    named_B = model.name(pictures)
    tokens_BT = torch.cat([torch.full((4, 1), START), named_B[:, None], draw_tokens(4, 3)[:, 1:]], dim=1)
    nll_BT = model.nll(pictures, tokens_BT)
    logits_BSV = model.chat.logits(model(pictures, tokens_BT))[:, P : P + 3]
    wanted = -logits_BSV.log_softmax(-1).gather(-1, tokens_BT[:, 1:, None])[..., 0]
    torch.testing.assert_close(nll_BT, wanted, atol=1e-4, rtol=1e-4)
    assert torch.equal(logits_BSV[:, 0].argmax(-1), named_B)


@torch.no_grad()
def test_without_a_picture_the_model_is_as_it_was():
    """Bit for bit the chat model's own, patches or none."""
    chat, tokens_BT = tiny_chat(parts=list(PARTS)), draw_tokens(2, 9)
    before = chat(tokens_BT).hidden
    documents_BT = (tokens_BT == START).cumsum(1)
    assert torch.equal(chat.hear(chat.embed(tokens_BT, documents_BT), documents_BT).hidden, before)
    model = Sight(chat, 2)
    assert torch.equal(model.chat(tokens_BT).hidden, before)


def test_a_picture_stands_behind_a_start_token():
    with pytest.raises(AssertionError, match="start token first"):
        sight()(torch.rand(1, 8, 8), torch.tensor([[1, 2]]))


def test_it_learns_to_name_what_it_is_shown():
    """Two pictures, two names; the gradient of the words reaches the patches' map."""
    torch.manual_seed(0)
    model, pictures = sight(), torch.rand(2, 8, 8).round()
    first = model.patches.embed.weight.clone()
    tokens_BT, optimizer = torch.tensor([[START, 3], [START, 7]]), torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(80):
        optimizer.zero_grad()
        model.nll(pictures, tokens_BT).mean().backward()
        optimizer.step()
    assert model.name(pictures).tolist() == [3, 7] and (model.patches.embed.weight != first).all()
