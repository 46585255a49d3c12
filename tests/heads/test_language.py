"""The tied head: its blocked loss against the plain twin, and the table's gauge."""

import pytest
import torch

from nano_think.heads import language
from nano_think.heads.language import LanguageHead, normalise_table

V, D = 97, 12


def draw_head() -> tuple[LanguageHead, torch.Tensor]:
    table_VD = normalise_table(torch.randn(V, D)).requires_grad_()
    return LanguageHead(table_VD, torch.randn(V).log_softmax(0)), table_VD


@pytest.mark.parametrize("rows", [16, 21, 10_000], ids=["many blocks", "ragged blocks", "one block"])
def test_blocked_loss_is_its_plain_twin(rows: int, monkeypatch: pytest.MonkeyPatch):
    """Values, and the gradients of hidden states and table."""
    real = language._blocks
    monkeypatch.setattr(language, "_blocks", lambda h, t, v, *more: real(h, t, 2**20 // rows, *more))
    head, table_VD = draw_head()
    hidden_BTD = torch.randn(3, 25, D, requires_grad=True)
    targets_BT, toward_BT = torch.randint(0, V, (3, 25)), torch.randn(3, 25)
    blocked, plain = head.nll(hidden_BTD, targets_BT), head.nll_plainly(hidden_BTD, targets_BT)
    torch.testing.assert_close(blocked, plain, atol=1e-5, rtol=1e-5)
    got = torch.autograd.grad(blocked, (hidden_BTD, table_VD), toward_BT)
    for one, other in zip(got, torch.autograd.grad(plain, (hidden_BTD, table_VD), toward_BT), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_blocks_cover_every_row_once():
    blocks = list(language._blocks(torch.arange(50)[:, None], torch.arange(50), 2**16))
    assert len(blocks) == 4 and torch.cat([target for _, target in blocks]).tolist() == list(range(50))


def test_only_what_learns_gets_a_gradient():
    head, table_VD = draw_head()
    head.nll(torch.randn(1, 4, D), torch.zeros(1, 4, dtype=torch.long)).sum().backward()
    assert table_VD.grad is not None and table_VD.grad.isfinite().all()
    frozen, hidden_BTD = LanguageHead(table_VD.detach(), head.bias), torch.randn(1, 4, D, requires_grad=True)
    frozen.nll(hidden_BTD, torch.zeros(1, 4, dtype=torch.long)).sum().backward()
    assert hidden_BTD.grad is not None and frozen.table.grad is None


def test_logits_are_the_definition_and_stay_in_fp32_under_autocast():
    """The denoiser's skip term reaches the hundreds, where bfloat16 would round by whole nats."""
    head, _ = draw_head()
    hidden = torch.randn(2, D) * 100
    expected = hidden @ head.table.T / D**0.5 + head.bias
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(head.logits(hidden), expected)
        nll = head.nll(hidden[None], torch.tensor([[1, 2]]))
    torch.testing.assert_close(nll, -expected.log_softmax(-1)[[0, 1], [1, 2]][None])


def test_zero_hidden_speaks_the_unigram_distribution():
    head, _ = draw_head()
    torch.testing.assert_close(head.logits(torch.zeros(D)).softmax(-1), head.bias.exp())


def test_rows_of_the_table_have_one_length():
    table_VD = normalise_table(torch.randn(400, 24) * 3 + 5)
    torch.testing.assert_close(table_VD.norm(dim=1), torch.full((400,), 24**0.5))
    assert table_VD.mean(0).abs().max() < 0.2
    cosine = (table_VD @ table_VD.T / 24).fill_diagonal_(0)
    assert cosine.mean().abs() < 0.05


def test_embedding_is_the_row():
    head, table_VD = draw_head()
    assert torch.equal(head.embed(torch.tensor([[4, 0]])), table_VD[[4, 0]][None])
