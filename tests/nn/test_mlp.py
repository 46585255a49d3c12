"""The gated product of the feed-forward layer: the compiled kernel and its plain twin against the definition."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import silu

from nano_think.nn import mlp
from nano_think.nn.mlp import SwiGLU, swiglu, swiglu_plainly
from nano_think.nn.native import kernels
from tests.tiny import few

FORMS = {"chosen": swiglu, "plain": swiglu_plainly}
# The kernel rounds once; torch rounds SiLU(gate) too, and on the way back grad * up.
PRECISIONS = {torch.float32: 2e-6, torch.bfloat16: 2**-7}


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return (3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))).to(dtype).requires_grad_()


def oracle(x: Tensor) -> Tensor:
    gate, up = x.double().chunk(2, dim=-1)
    return silu(gate) * up


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("form", FORMS)
def test_forms_agree_with_the_definition(form: str, dtype: torch.dtype):
    @few(30)
    @given(inner=st.integers(1, 70), rows=st.integers(0, 9), seed=st.integers(0, 99))
    def check(inner: int, rows: int, seed: int):
        x, toward = draw(2, rows, 2 * inner, dtype=dtype, seed=seed), draw(2, rows, inner, dtype=dtype, seed=seed + 1)
        got, wanted = FORMS[form](x), oracle(x)
        assert got.dtype == dtype
        close = {"atol": 2e-6 + PRECISIONS[dtype] / 2, "rtol": 2 * PRECISIONS[dtype]}
        torch.testing.assert_close(got.double(), wanted, **close)
        (grad,), (exact,) = (torch.autograd.grad(y, x, toward.to(y.dtype)) for y in (got, wanted))
        torch.testing.assert_close(grad.double(), exact.double(), **close)

    check()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_no_number_spoils_its_column_alone(form: str, bad: float):
    x = draw(2, 3, 2 * 19).detach().clone()
    x[1, 2, 18] = bad
    y = FORMS[form](x.requires_grad_())
    (grad,) = torch.autograd.grad(y.sum(), x)
    spoiled = torch.zeros(2, 3, 19, dtype=torch.bool)
    spoiled[1, 2, 18] = True
    assert torch.equal(~y.isfinite(), spoiled)
    assert torch.equal((~grad.isfinite()).unflatten(-1, (2, 19)).any(-2), spoiled)


@pytest.mark.parametrize("form", FORMS)
def test_large_gates_close_and_open(form: str):
    x = torch.tensor([[-300.0, -90.0, 90.0, 300.0, 1.0, 2.0, 3.0, 4.0]], requires_grad=True)
    y = FORMS[form](x)
    torch.testing.assert_close(y, torch.tensor([[0.0, 0.0, 270.0, 1200.0]]))
    (grad,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(grad, torch.tensor([[0.0, 0.0, 3.0, 4.0, 0.0, 0.0, 90.0, 300.0]]))


def test_any_layout_will_do():
    x = draw(3, 2 * 21, 4)
    toward = draw(4, 3, 21).transpose(0, 1)
    y = swiglu(x.transpose(1, 2))
    torch.testing.assert_close(y, swiglu(x.transpose(1, 2).contiguous()))
    got, wanted = (torch.autograd.grad(y, x, toward.to(y.dtype), retain_graph=True)[0] for y in (y, oracle(x.mT)))
    torch.testing.assert_close(got, wanted)


def test_threads_change_no_bit():
    x, seen = draw(300, 2 * 203, dtype=torch.bfloat16), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        y = swiglu(x)
        seen.append((y, *torch.autograd.grad(y.float().square().sum(), x)))
    for other in seen[1:]:
        assert all(torch.equal(a, b) for a, b in zip(seen[0], other, strict=True))


def test_the_layer_does_without_kernels(monkeypatch: pytest.MonkeyPatch):
    layer, x = SwiGLU(12, 21), draw(2, 5, 12)
    torch.nn.init.normal_(layer.down.weight)
    with_kernel = layer(x)
    monkeypatch.setattr(mlp, "have_kernel", lambda x: False)
    torch.testing.assert_close(layer(x), with_kernel, atol=1e-4, rtol=1e-5)


def test_autocast_reaches_the_layer_in_bfloat16(monkeypatch: pytest.MonkeyPatch):
    """Nothing is widened on the way from one product to the next."""
    seen = []
    monkeypatch.setattr(mlp, "swiglu", lambda x: seen.append(x.dtype) or swiglu(x))
    with torch.autocast("cpu", torch.bfloat16):
        y = SwiGLU(12, 21)(draw(2, 5, 12))
    assert seen == [torch.bfloat16] and y.dtype == torch.bfloat16


def test_the_operator_keeps_its_promises():
    if kernels().there:
        checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
        for dtype in PRECISIONS:
            torch.library.opcheck(torch.ops.nano_think.swiglu.default, (draw(5, 42, dtype=dtype),), test_utils=checks)


def test_the_layer_compiles_without_a_break():
    if kernels().there:
        x = draw(2, 5, 42)
        compiled = torch.compile(swiglu, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), swiglu(x))
