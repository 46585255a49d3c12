"""The convolution of the state-space layers against its loop."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import silu

from nano_think.nn.causal_conv import CausalConv, causal_conv_silu, convolve_plainly
from nano_think.nn.native import kernels
from tests.tiny import few


def draw(T: int, wide: int, taps: int, seed: int, documents: float = 0.2) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = (2, T, wide), (taps, wide), (wide,)
    values = [torch.randn(*shape, generator=generator).requires_grad_() for shape in shapes]
    return values, (torch.rand(2, T, generator=generator) < documents).cumsum(1)


@pytest.mark.parametrize("taps", [1, 2, 4])
def test_convolution_is_the_loop(taps: int):
    (x, weight, bias), documents = draw(11, 3, taps, seed=0)
    looped = torch.zeros_like(x)
    for b in range(2):
        for t in range(11):
            looped[b, t] = bias
            for back in range(min(taps, t + 1)):
                if documents[b, t - back] == documents[b, t]:
                    looped[b, t] = looped[b, t] + weight[back] * x[b, t - back]
    torch.testing.assert_close(convolve_plainly(x, weight, bias, documents), looped)
    conv = CausalConv(3, taps)
    conv.load_state_dict({"weight": weight, "bias": bias})
    torch.testing.assert_close(conv(x, documents), silu(looped))


@few(40)
@given(
    T=st.integers(1, 40), wide=st.integers(1, 230), taps=st.integers(1, 9), seed=st.integers(0, 999),
    documents=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
)  # fmt: skip
def test_what_is_used_is_the_plain_form(T, wide, taps, seed, documents):
    values, numbers = draw(T, wide, taps, seed, documents)
    toward = torch.randn(2, T, wide, generator=torch.Generator().manual_seed(1))
    got, wanted = causal_conv_silu(*values, numbers), silu(convolve_plainly(*values, numbers))
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
    for a, b in zip(*(torch.autograd.grad(y, values, toward) for y in (got, wanted)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5 * max(1.0, float(b.abs().max())), rtol=1e-5)


def test_threads_change_no_bit():
    values, numbers = draw(60, 300, 4, seed=2)
    seen = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        y = causal_conv_silu(*values, numbers)
        seen.append((y, *torch.autograd.grad((y**2).sum(), values)))
    for other in seen[1:]:
        assert all(torch.equal(a, b) for a, b in zip(seen[0], other, strict=True))


def test_a_nan_reaches_the_taps_and_no_further():
    (x, weight, bias), documents = draw(20, 5, 4, seed=3, documents=0.0)
    x = x.detach().clone()
    x[0, 7] = torch.nan
    y = causal_conv_silu(x, weight, bias, documents)
    assert y[0, 7:11].isnan().all() and y[0, :7].isfinite().all() and y[0, 11:].isfinite().all()


def test_the_operator_keeps_its_promises():
    if kernels().there:
        values, documents = draw(9, 6, 4, seed=4)
        fresh = torch.zeros_like(documents, dtype=torch.bool)
        checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
        torch.library.opcheck(torch.ops.nano_think.causal_conv_silu.default, (*values, fresh), test_utils=checks)
