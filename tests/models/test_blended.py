"""The cross-entropy of blended logits: the compiled kernel against its plain twin, the head and torch."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from nano_think.models.fusion import blend_cross_entropy, blend_cross_entropy_plainly, blended_nll, logits_of_each
from nano_think.nn.native import kernels
from tests.tiny import draw_tokens, tiny_mixture

FORMS = {"chosen": blend_cross_entropy, "plain": blend_cross_entropy_plainly}
PRECISIONS = (torch.float32, torch.bfloat16, torch.float16)


def draw(rows: int, K: int, words: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits of K experts, shares, biases and targets."""
    logits_SKV = (torch.randn(rows, K, words) * 4).to(dtype)
    return logits_SKV, torch.rand(rows, K), torch.randn(words), torch.randint(words, (rows,))


@pytest.mark.parametrize("words", [1, 3, 16, 31, 64, 333])
@pytest.mark.parametrize("K", [1, 3])
@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("form", FORMS)
def test_losses_and_slopes_are_the_definition(form: str, dtype: torch.dtype, K: int, words: int):
    logits, share, bias, target = draw(7, K, words, dtype)
    exact = share.double().requires_grad_()
    nll = cross_entropy((exact[..., None] * logits.double()).sum(1) + bias, target, reduction="none")
    found, slope = FORMS[form](logits, share, bias, target)
    torch.testing.assert_close(found.double(), nll.detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(slope.double(), torch.autograd.grad(nll.sum(), exact)[0], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_the_largest_sum_may_stand_anywhere(form: str):
    """Also where the others are nothing beside it, and where each is larger than all before it."""
    up_V = torch.linspace(-3000, 3000, 333)
    for logits_KV in (
        up_V[None],
        -up_V[None],
        torch.stack([up_V, torch.zeros(333).index_fill(0, torch.tensor(40), 9)]),
    ):
        share, target = torch.full((1, len(logits_KV)), 0.5), torch.tensor([111])
        exact = share.double().requires_grad_()
        nll = cross_entropy(exact @ logits_KV.double(), target)
        found, slope = FORMS[form](logits_KV[None], share, torch.zeros(333), target)
        torch.testing.assert_close(found.double()[0], nll.detach(), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(slope.double(), torch.autograd.grad(nll, exact)[0], atol=1e-2, rtol=1e-5)


def test_kept_logits_of_half_precision_are_finer_than_it():
    """fp16: of 11 binary digits, where bf16 has 8."""
    head, streams_BTKD = tiny_mixture().head, torch.randn(2, 5, 3, tiny_mixture().head.width).bfloat16()
    exact = streams_BTKD.double() @ (head.table.T * head.width**-0.5).bfloat16().double()
    found = logits_of_each(head, streams_BTKD)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.double(), exact, atol=1e-6, rtol=2**-11)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch):
    drawn = draw(9, 2, 37)
    whole = blend_cross_entropy_plainly(*drawn)
    monkeypatch.setattr("nano_think.models.fusion.BLOCK", 200)
    for found, wanted in zip(blend_cross_entropy_plainly(*drawn), whole, strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_no_number_spoils_its_row_alone(form: str):
    logits, share, bias, target = draw(3, 2, 37)
    logits[1, 0, 36] = torch.nan
    for found in FORMS[form](logits, share, bias, target):
        assert found[1].isnan().any() and found[[0, 2]].isfinite().all()


@pytest.mark.parametrize("form", FORMS)
def test_a_target_that_is_no_word_is_refused(form: str):
    logits, share, bias, target = draw(4, 2, 37)
    target[2] = 37
    with pytest.raises(RuntimeError):
        FORMS[form](logits, share, bias, target)


def test_loss_and_gradient_are_those_of_the_fused_hidden():
    """With an expert of share 0 as well."""
    model, tokens_BT1 = tiny_mixture(), draw_tokens(2, 13)
    streams_BTKD, targets_BT = model.read_experts(tokens_BT1[:, :-1]), tokens_BT1[:, 1:]
    share_BTK = torch.rand(*targets_BT.shape, len(model.names))
    share_BTK[0, :, 1] = 0
    losses, slopes = [], []
    for way in ("hidden", "logits"):
        share = share_BTK.clone().requires_grad_()
        if way == "hidden":
            nll_BT = model.head.nll_plainly((share[..., None] * streams_BTKD).sum(2), targets_BT)
        else:
            nll_BT = blended_nll(model.head, share, logits_of_each(model.head, streams_BTKD), targets_BT)
        losses.append(nll_BT.detach())
        slopes.append(torch.autograd.grad((nll_BT * torch.arange(1.0, 13)).sum(), share)[0])
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(slopes[1], slopes[0], atol=1e-4, rtol=1e-4)


def test_threads_change_no_bit():
    drawn, seen = draw(300, 3, 517, torch.bfloat16), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        seen.append(blend_cross_entropy(*drawn))
    for nll, slope in seen[1:]:
        assert torch.equal(nll, seen[0][0]) and torch.equal(slope, seen[0][1])


def test_the_operator_keeps_its_promises():
    if kernels().there:
        for dtype in PRECISIONS:
            operator = torch.ops.nano_think.blend_cross_entropy.default
            torch.library.opcheck(operator, draw(4, 2, 37, dtype), test_utils=("test_schema", "test_faketensor"))
