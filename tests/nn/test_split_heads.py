"""Heads out of rows by the compiled kernel against the plain form."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from nano_think.nn import split_heads as module
from nano_think.nn.attention import Attention, attend_where
from nano_think.nn.native import kernels
from nano_think.nn.rope import Rope
from nano_think.nn.split_heads import split_heads, split_heads_plainly
from tests.tiny import few

PRECISIONS = {torch.float32: 1e-5, torch.bfloat16: 2**-7}


def draw(
    heads: int, half: int, T: int, dtype: torch.dtype = torch.float32, seed: int = 0, normal: bool = True
) -> tuple[Tensor, int, nn.Module, nn.Module, tuple[Tensor, Tensor]]:
    """Rows, the number of heads, both norms and the turns of positions that do not begin at 0."""
    generator = torch.Generator().manual_seed(seed)
    norms: list[nn.Module] = [nn.RMSNorm(2 * half) if normal else nn.Identity() for _ in range(2)]
    for parameter in (p for norm in norms for p in norm.parameters()):
        parameter.data = torch.randn(2 * half, generator=generator)
    qkv = (2 * torch.randn(2, T, 6 * heads * half, generator=generator)).to(dtype).requires_grad_()
    return qkv, heads, norms[0], norms[1], Rope(2 * half)(torch.arange(5, 5 + T))


def results(form, values, seed: int = 1) -> list[Tensor]:
    """q, k and v, and the gradients of all that learns."""
    generator = torch.Generator().manual_seed(seed)
    qkv, _, *norms, _ = values
    out = form(*values)
    toward = [torch.randn(x.shape, generator=generator).to(x.dtype) for x in out]
    return [*out, *torch.autograd.grad(out, [qkv, *(p for norm in norms for p in norm.parameters())], toward)]


@pytest.mark.parametrize("normal", [True, False], ids=["norm", "no norm"])
@pytest.mark.parametrize("dtype", PRECISIONS)
def test_what_is_used_is_the_plain_form(dtype: torch.dtype, normal: bool):
    @few(30)
    @given(heads=st.integers(1, 3), half=st.integers(1, 40), T=st.integers(1, 40), seed=st.integers(0, 99))
    def check(heads: int, half: int, T: int, seed: int):
        values = draw(heads, half, T, dtype, seed, normal)
        for got, wanted in zip(*(results(form, values) for form in (split_heads, split_heads_plainly)), strict=True):
            assert got.dtype == wanted.dtype and got.shape == wanted.shape
            size = max(1.0, float(wanted.detach().abs().max()))
            torch.testing.assert_close(got, wanted, atol=PRECISIONS[dtype] * size, rtol=PRECISIONS[dtype])

    check()


def test_a_nan_spoils_its_head_of_its_token_alone():
    qkv, *rest = draw(2, 9, 6)
    qkv = qkv.detach().clone()
    qkv[1, 3, 18 + 4] = torch.nan
    q, k, v = split_heads(qkv, *rest)
    spoiled = torch.zeros(2, 2, 6, dtype=torch.bool)
    spoiled[1, 1, 3] = True
    assert torch.equal(q.isnan().any(-1), spoiled) and k.isfinite().all() and v.isfinite().all()


def test_threads_change_no_bit():
    values, seen = draw(3, 21, 150), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        seen.append(results(split_heads, values))
    for other in seen[1:]:
        assert all(torch.equal(a, b) for a, b in zip(seen[0], other, strict=True))


def test_attention_does_without_kernels(monkeypatch: pytest.MonkeyPatch):
    attention, x = Attention(24, 2), torch.randn(2, 7, 24)
    nn.init.normal_(attention.out.weight)
    rope, attend = Rope(12)(torch.arange(7)), attend_where(torch.ones(2, 1, 7, 7, dtype=torch.bool).tril())
    with_kernel = attention(x, rope, attend)
    monkeypatch.setattr(module, "have_kernel", lambda x: False)
    torch.testing.assert_close(attention(x, rope, attend), with_kernel, atol=1e-5, rtol=1e-5)


def test_the_operator_keeps_its_promises():
    if kernels().there:
        checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
        for normal in (True, False):
            qkv, heads, *norms, rope = draw(2, 5, 4, normal=normal)
            weights = [norm.weight if normal else None for norm in norms]
            operator = torch.ops.nano_think.split_heads.default
            torch.library.opcheck(operator, (qkv, heads, *weights, *rope, 1e-6), test_utils=checks)


def test_heads_compile_without_a_break():
    values = draw(2, 9, 6)
    compiled = torch.compile(split_heads, backend="aot_eager", fullgraph=True)
    for a, b in zip(results(compiled, values), results(split_heads, values), strict=True):
        torch.testing.assert_close(a, b)
