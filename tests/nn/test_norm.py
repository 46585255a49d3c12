"""RMSNorm by the compiled kernel against torch's."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from nano_think.nn.native import kernels
from nano_think.nn.norm import RMSNorm
from tests.tiny import few

PRECISIONS = {torch.float32: 1e-5, torch.bfloat16: 2**-7}


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, RMSNorm]:
    """Rows, and a norm whose weights are not all one."""
    generator = torch.Generator().manual_seed(seed)
    norm = RMSNorm(shape[-1])
    norm.weight.data = torch.randn(shape[-1], generator=generator)
    return (3 * torch.randn(*shape, generator=generator)).to(dtype).requires_grad_(), norm


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_values_and_gradients_are_those_of_torch(dtype: torch.dtype):
    @few(30)
    @given(width=st.integers(1, 90), rows=st.integers(0, 70), seed=st.integers(0, 99))
    def check(width: int, rows: int, seed: int):
        x, norm = draw(2, rows, width, dtype=dtype, seed=seed)
        toward = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
        exact = nn.RMSNorm(width, eps=torch.finfo(torch.float32).eps).double()
        exact.load_state_dict(norm.state_dict())
        got, wanted = norm(x), exact(x.double())
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), wanted, atol=PRECISIONS[dtype], rtol=PRECISIONS[dtype])
        grads = torch.autograd.grad(got, (x, norm.weight), toward)
        for a, b in zip(grads, torch.autograd.grad(wanted, (x, exact.weight), toward.double()), strict=True):
            size = float(b.abs().max()) if b.numel() else 1.0
            torch.testing.assert_close(a.double(), b.double(), atol=PRECISIONS[dtype] * max(1.0, size), rtol=1e-5)

    check()


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_small_rows_are_not_blown_up(dtype: torch.dtype):
    """What is added to the mean square is what torch adds, in half precision too."""
    x, norm = torch.full((1, 20), 1e-3, dtype=dtype), RMSNorm(20)
    plain = nn.RMSNorm(20)(x.float())
    torch.testing.assert_close(norm(x).float(), plain, atol=0, rtol=PRECISIONS[dtype])
    assert not norm(torch.zeros(1, 20, dtype=dtype)).any()


def test_what_is_no_number_spoils_its_row_alone():
    for bad in (torch.nan, torch.inf):
        x, norm = draw(3, 19)
        x = x.detach().clone()
        x[1, 18] = bad
        y = norm(x.requires_grad_())
        grad = torch.autograd.grad(y.sum(), x)[0]
        for rows in (y, grad):
            assert rows[1].isnan().any() and rows[[0, 2]].isfinite().all()


def test_threads_change_no_bit():
    (x, norm), seen = draw(301, 203), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        y = norm(x)
        seen.append((y, *torch.autograd.grad(y.square().sum(), (x, norm.weight))))
    for other in seen[1:]:
        assert all(torch.equal(a, b) for a, b in zip(seen[0], other, strict=True))


def test_the_operator_keeps_its_promises():
    if kernels().there:
        checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
        for dtype in PRECISIONS:
            x, norm = draw(5, 21, dtype=dtype)
            operator = torch.ops.nano_think.rms_norm.default
            torch.library.opcheck(operator, (x, norm.weight, 1e-6, True), test_utils=checks)


def test_for_a_product_it_rounds_as_autocast_would():
    """In bf16 where autocast is on, and the gradient is that of rounding afterwards, bit for bit."""
    x, norm = draw(7, 37)
    plain = norm(x)
    assert norm(x, for_product=True).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        got = norm(x, for_product=True)
    assert torch.equal(got, plain.bfloat16())
    toward = torch.randn(x.shape).bfloat16()
    grads = (torch.autograd.grad(y, (x, norm.weight), toward) for y in (got, plain.bfloat16()))
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
