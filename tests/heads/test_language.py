"""The tied head: its blocked loss against the plain twin, and the table's gauge."""

import pytest
import torch

from nano_think.heads import language
from nano_think.heads.language import LanguageHead, normalise_table

V, D = 97, 12


def draw_head() -> tuple[LanguageHead, torch.Tensor]:
    table_VD = normalise_table(torch.randn(V, D)).requires_grad_()
    return LanguageHead(table_VD, torch.randn(V).log_softmax(0)), table_VD


@pytest.mark.parametrize(("block", "group"), [(16, 32), (7, 21), (10_000, 10_000)], ids=["many", "ragged", "one"])
@pytest.mark.parametrize("kernel", [True, False], ids=["chosen", "plain"])
def test_blocked_loss_is_its_plain_twin(block: int, group: int, kernel: bool, monkeypatch: pytest.MonkeyPatch):
    """Each row's value and the gradient of hidden states; the mean's value and the gradient of the table too."""
    if not kernel:
        monkeypatch.setattr(language, "have_kernel", lambda x: False)
    monkeypatch.setattr(language, "BLOCK", block * V)
    monkeypatch.setattr(language, "GROUP", group * V)
    head, table_VD = draw_head()
    frozen = LanguageHead(table_VD.detach(), head.bias)
    hidden_BTD = torch.randn(3, 25, D, requires_grad=True)
    targets_BT, toward_BT, mask_BT = torch.randint(0, V, (3, 25)), torch.randn(3, 25), torch.rand(3, 25) < 0.7
    plain_BT = head.nll_plainly(hidden_BTD, targets_BT)
    blocked_BT, mean = frozen.nll(hidden_BTD, targets_BT), head.mean_nll(hidden_BTD, targets_BT, mask_BT)
    torch.testing.assert_close(blocked_BT, plain_BT, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mean, plain_BT[mask_BT].mean(), atol=1e-5, rtol=1e-5)
    for got, expected in (
        (torch.autograd.grad(blocked_BT, hidden_BTD, toward_BT), (plain_BT * toward_BT).sum()),
        (torch.autograd.grad(3 * mean, (hidden_BTD, table_VD)), 3 * plain_BT[mask_BT].mean()),
    ):
        for one, other in zip(
            got, torch.autograd.grad(expected, (hidden_BTD, table_VD), retain_graph=True), strict=False
        ):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_half_precision_rounds_products_alone():
    """The loss of bfloat16 states is that of the rounded states and table, but for the rounding of the logits."""
    head, table_VD = draw_head()
    hidden_BTD = torch.randn(2, 9, D).bfloat16().requires_grad_()
    targets_BT = torch.randint(0, V, (2, 9))
    rounded_VD = (table_VD * D**-0.5).detach().bfloat16().float().requires_grad_()
    exact_BTD = hidden_BTD.detach().float().requires_grad_()
    logits_BTV = exact_BTD @ rounded_VD.T + head.bias
    exact_BT = torch.nn.functional.cross_entropy(logits_BTV.movedim(-1, 1), targets_BT, reduction="none")
    mean = head.mean_nll(hidden_BTD, targets_BT, torch.ones(2, 9))
    assert mean.dtype == torch.float32
    torch.testing.assert_close(mean, exact_BT.mean(), atol=1e-2, rtol=0)
    grads = torch.autograd.grad(mean, (hidden_BTD, table_VD))
    exact = torch.autograd.grad(exact_BT.mean(), (exact_BTD, rounded_VD))
    torch.testing.assert_close(grads[0].float(), exact[0], atol=2e-4, rtol=2e-2)
    torch.testing.assert_close(grads[1] * D**0.5, exact[1], atol=2e-4, rtol=2e-2)


def test_the_mean_of_nothing_is_nothing():
    head, table_VD = draw_head()
    hidden_BTD = torch.randn(1, 4, D, requires_grad=True)
    for states, mask in ((hidden_BTD, torch.zeros(1, 4)), (hidden_BTD[:, :0], torch.ones(1, 0))):
        mean = head.mean_nll(states, torch.zeros(mask.shape, dtype=torch.long), mask)
        grads = torch.autograd.grad(mean, (hidden_BTD, table_VD))
        assert mean == 0 and not any(grad.any() for grad in grads)


def test_only_what_learns_gets_a_gradient():
    head, table_VD = draw_head()
    targets_BT, mask_BT = torch.zeros(1, 4, dtype=torch.long), torch.ones(1, 4)
    head.mean_nll(torch.randn(1, 4, D), targets_BT, mask_BT).backward()
    assert table_VD.grad is not None and table_VD.grad.isfinite().all()
    frozen, hidden_BTD = LanguageHead(table_VD.detach(), head.bias), torch.randn(1, 4, D, requires_grad=True)
    frozen.mean_nll(hidden_BTD, targets_BT, mask_BT).backward()
    assert hidden_BTD.grad is not None and frozen.table.grad is None
    with pytest.raises(AssertionError, match="needs mean_nll"):
        head.nll(hidden_BTD, targets_BT)


def test_logits_are_the_definition_and_stay_in_fp32_under_autocast():
    """The denoiser's skip term reaches the hundreds, where bfloat16 would round by whole nats."""
    head, _ = draw_head()
    hidden = torch.randn(2, D) * 100
    expected = hidden @ head.table.T / D**0.5 + head.bias
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(head.logits(hidden), expected)
        with torch.no_grad():
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
