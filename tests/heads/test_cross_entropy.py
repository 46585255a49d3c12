"""The cross-entropy in place: the compiled kernel against its plain twin and against torch."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from nano_think.heads.language import cross_entropy_, cross_entropy_plainly_
from nano_think.nn.native import kernels

FORMS = {"chosen": cross_entropy_, "plain": cross_entropy_plainly_}
PRECISIONS = {torch.float32: 1e-6, torch.bfloat16: 2**-8}


def draw(rows: int, words: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, biases and targets."""
    return (torch.randn(rows, words) * 4).to(dtype), torch.randn(words), torch.randint(words, (rows,))


def oracle(logits: Tensor, bias: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The losses and softmax - one-hot in fp64."""
    exact = (logits.double() + bias).requires_grad_()
    nll = cross_entropy(exact, target, reduction="none")
    return nll.detach(), torch.autograd.grad(nll.sum(), exact)[0]


@pytest.mark.parametrize("words", [1, 3, 16, 31, 64, 100, 333])
@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("form", FORMS)
def test_losses_and_errors_are_the_definition(form: str, dtype: torch.dtype, words: int):
    logits, bias, target = draw(7, words, dtype)
    nll, error = oracle(logits, bias, target)
    torch.testing.assert_close(FORMS[form](logits, bias, target, True).double(), nll, atol=1e-5, rtol=1e-5)
    # What is left of a probability near 1 is as exact as that probability.
    torch.testing.assert_close(logits.double(), error, atol=1e-6, rtol=PRECISIONS[dtype])


@pytest.mark.parametrize("form", FORMS)
def test_logits_stay_where_no_errors_are_wanted(form: str):
    logits, bias, target = draw(5, 37)
    before = logits.clone()
    torch.testing.assert_close(FORMS[form](logits, bias, target, False), oracle(before, bias, target)[0].float())
    assert torch.equal(logits, before)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("word", [0, 17, 36])
def test_what_is_no_number_spoils_its_row_alone(form: str, bad: float, dtype: torch.dtype, word: int):
    logits, bias, target = draw(3, 37, dtype)
    logits[1, word] = bad
    target[1] = 5
    nll = FORMS[form](logits, bias, target, True)
    assert not nll[1].isfinite() and logits[1].isnan().any()
    assert nll[[0, 2]].isfinite().all() and logits[[0, 2]].isfinite().all()


@pytest.mark.parametrize("form", FORMS)
def test_words_that_cannot_come_have_no_error(form: str):
    logits, bias, target = draw(4, 37)
    logits[:, ::2] = -torch.inf
    target[:] = 1
    nll, error = oracle(logits, bias, target)
    torch.testing.assert_close(FORMS[form](logits, bias, target, True).double(), nll, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits.double(), error, atol=1e-6, rtol=1e-5)
    assert not logits[:, ::2].any()
    logits = torch.full((1, 37), -torch.inf)
    assert FORMS[form](logits, bias, target[:1], True).isnan().all()


@pytest.mark.parametrize("form", FORMS)
def test_logits_in_the_hundreds_neither_overflow_nor_vanish(form: str):
    logits, bias, target = draw(4, 37)
    logits = logits * 100
    nll, error = oracle(logits, bias, target)
    torch.testing.assert_close(FORMS[form](logits, bias, target, True).double(), nll, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(logits.double(), error, atol=1e-5, rtol=1e-4)


def test_threads_change_no_bit():
    drawn, bias, target = draw(300, 517, torch.bfloat16)
    seen = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        logits = drawn.clone()
        seen.append((cross_entropy_(logits, bias, target, True), logits))
    for nll, logits in seen[1:]:
        assert torch.equal(nll, seen[0][0]) and torch.equal(logits, seen[0][1])


@pytest.mark.parametrize("form", FORMS)
def test_a_target_that_is_no_word_is_refused(form: str):
    logits, bias, target = draw(4, 37)
    target[2] = 37
    with pytest.raises(RuntimeError):
        FORMS[form](logits, bias, target, True)


def test_the_operator_keeps_its_promises():
    if kernels().there:
        for dtype in PRECISIONS:
            checks = ("test_schema", "test_faketensor")
            operator = torch.ops.nano_think.cross_entropy_.default
            torch.library.opcheck(operator, (*draw(4, 37, dtype), True), test_utils=checks)
