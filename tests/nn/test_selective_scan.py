"""The forms of the S6 scan against its recurrence, in values and gradients."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import softplus

from nano_think.nn import selective_scan as module
from nano_think.nn.native import kernels
from nano_think.nn.selective_scan import ScanInChunks, scan_plainly, scan_sequentially, selective_scan
from tests.tiny import few

NAMES = ("u", "dt", "A", "B", "C", "D", "z", "state")


def draw(
    T: int, seed: int, wide: int = 21, N: int = 5, most_dt: float = 1.0, documents: float = 0.1, batch: int = 2
) -> tuple[list[Tensor], Tensor]:
    """u, dt, A, B, C, D, z and an initial state, and where documents begin."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    dt, A = (
        most_dt * torch.rand(batch, T, wide, generator=generator),
        -16 * torch.rand(wide, N, generator=generator) ** 3,
    )
    values = [
        normal(batch, T, wide),
        dt,
        A,
        normal(batch, T, N),
        normal(batch, T, N),
        normal(wide),
        normal(batch, T, wide),
    ]
    values.append(normal(batch, wide, N))
    return [value.requires_grad_() for value in values], torch.rand(batch, T, generator=generator) < documents


def oracle(values: list[Tensor], fresh: Tensor, soft: bool = False) -> tuple[Tensor, Tensor]:
    """The recurrence in fp64."""
    return scan_plainly(*(value.double() for value in values), fresh, soft, scan=scan_sequentially)


def plain(values: list[Tensor], fresh: Tensor, soft: bool = False) -> tuple[Tensor, Tensor]:
    return scan_plainly(*values, fresh, soft)


def chosen(values: list[Tensor], fresh: Tensor, soft: bool = False) -> tuple[Tensor, Tensor]:
    """What the layers use: the kernel where there is one."""
    u, dt, A, B, C, D, z, state = values
    return selective_scan(u, dt, A, B, C, D, fresh, z, state, soft)


FORMS = {"plain": plain, "chosen": chosen}


def relative(got: Tensor, wanted: Tensor) -> float:
    got, wanted = got.detach().double(), wanted.detach().double()
    return float((got - wanted).abs().max() / wanted.abs().max().clamp_min(1e-9))


def assert_agree(form, values: list[Tensor], fresh: Tensor, soft: bool = False) -> None:
    generator = torch.Generator().manual_seed(1)
    wanted = oracle(values, fresh, soft)
    toward = [torch.randn(value.shape, generator=generator) for value in wanted]
    got = form(values, fresh, soft)
    for a, b in zip(got, wanted, strict=True):
        assert relative(a, b) < 1e-5
    wanted_grads = torch.autograd.grad(wanted, values, [value.double() for value in toward])
    for name, a, b in zip(NAMES, torch.autograd.grad(got, values, toward), wanted_grads, strict=True):
        assert relative(a, b) < 1e-5, name


@pytest.mark.parametrize("form", FORMS)
@few(25)
@given(
    T=st.integers(1, 50),
    wide=st.integers(1, 70),
    N=st.integers(1, 19),
    seed=st.integers(0, 9999),
    most_dt=st.sampled_from([0.01, 0.1, 1.0]),
    documents=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    soft=st.booleans(),
)
def test_forms_are_the_recurrence(form: str, T, wide, N, seed, most_dt, documents, soft):
    """Sizes that are no multiple of anything, resets anywhere, a state to begin with, and all gradients."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK_NUMBERS", 7 * 2 * wide * N)
        assert_agree(FORMS[form], *draw(T, seed, wide, N, most_dt, documents), soft)


@pytest.mark.parametrize("form", FORMS)
def test_a_long_scan_of_wide_channels_agrees(form: str):
    """More channels than one block of the kernel holds, more tokens than a chunk."""
    assert_agree(FORMS[form], *draw(130, seed=3, wide=301, N=16, most_dt=0.1, documents=0.02))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("most_dt", [30.0, 1e4, 1e38])
def test_large_steps_do_not_overflow(form: str, most_dt: float):
    (_, *most), fresh = draw(30, seed=1)
    values = [torch.zeros(2, 30, 21), *most]
    values[1] = values[1].detach() * most_dt
    assert all(value.isfinite().all() for value in FORMS[form](values, fresh))


@pytest.mark.parametrize("form", FORMS)
def test_what_is_not_a_number_stays_so(form: str):
    """A NaN or an infinity comes out of the rest of its document, and of nothing else."""
    for place, bad in ((0, math.nan), (1, math.nan), (0, math.inf), (3, math.nan), (6, math.nan)):
        values, fresh = draw(30, seed=2, documents=0.0)
        fresh[:, 20] = True
        values = [value.detach().clone() for value in values]
        values[place][0, 9] = bad
        y, last = FORMS[form](values, fresh)
        ruined = y[0, 9 : 10 if place == 6 else 20]
        assert not ruined.isfinite().any()
        assert y[0, :9].isfinite().all() and y[0, 20:].isfinite().all() and y[1].isfinite().all()
        assert last.isfinite().all()


def test_a_large_negative_gate_is_shut_and_a_large_one_open():
    values, fresh = draw(4, seed=5)
    for size, wanted in ((-1e30, 0.0), (-200.0, 0.0), (300.0, 300.0)):
        values[6] = torch.full_like(values[6], size)
        ungated = selective_scan(*values[:6], fresh, None, values[7])[0]
        torch.testing.assert_close(chosen(values, fresh)[0], ungated * wanted, atol=1e-6, rtol=1e-6)


def test_steps_are_softplus_of_what_comes_in():
    """Small ones too: a channel that remembers a thousand tokens has a step of a thousandth."""
    raw = torch.linspace(-15, 25, 4000)[None, :, None]
    one = torch.ones(1, 4000, 1)
    y, _ = selective_scan(one, raw, torch.zeros(1, 1), one, one, torch.zeros(1), one[..., 0] > 0, soft=True)
    torch.testing.assert_close(y, softplus(raw.double()).float(), atol=0, rtol=2e-6)


def test_decays_are_exact_enough():
    """exp(dt A) over all magnitudes: what remains of a state of 1 after one token without input."""
    dt = torch.cat([torch.logspace(-9, 2.2, 3000), torch.zeros(1)])[None, None]
    nothing, state = torch.zeros(1, 1, 1), torch.ones(1, 3001, 1)
    _, last = selective_scan(
        torch.zeros_like(dt), dt, -state[0], nothing, nothing, torch.zeros(3001), torch.zeros(1, 1) > 0, state=state
    )
    torch.testing.assert_close(last[0, :, 0], torch.exp(-dt[0, 0].double()).float(), atol=1e-38, rtol=4e-6)
    assert last[0, -1] == 1


def test_gradients_of_the_plain_form_are_those_of_differences():
    values, fresh = draw(5, seed=4, wide=3, N=2, documents=0.3, batch=1)
    u, dt, A, B, C, _, _, state = (value.detach().double().requires_grad_() for value in values)
    assert torch.autograd.gradcheck(ScanInChunks.apply, (u, dt, A, B, C, fresh, state))


@pytest.mark.parametrize("form", FORMS)
@few(10)
@given(at=st.integers(1, 39), seed=st.integers(0, 999))
def test_a_scan_in_two_pieces_is_the_scan(form: str, at: int, seed: int):
    """The state carries everything on, gradients included."""
    values, fresh = draw(40, seed)
    u, dt, A, B, C, D, z, state = values

    def piece(part: slice, state: Tensor) -> tuple[Tensor, Tensor]:
        return FORMS[form]([u[:, part], dt[:, part], A, B[:, part], C[:, part], D, z[:, part], state], fresh[:, part])

    first, middle = piece(slice(0, at), state)
    second, end = piece(slice(at, None), middle)
    y, last = FORMS[form](values, fresh)
    torch.testing.assert_close(torch.cat([first, second], dim=1), y, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(end, last, atol=1e-5, rtol=1e-5)
    whole = torch.autograd.grad(y.sum() + last.sum(), values)
    pieces = torch.autograd.grad(first.sum() + second.sum() + end.sum(), values)
    for name, a, b in zip(NAMES, pieces, whole, strict=True):
        assert relative(a, b) < 1e-5, name


def test_threads_change_no_bit():
    values, fresh = draw(70, seed=6, wide=300)

    def run() -> tuple[Tensor, ...]:
        y, last = chosen(values, fresh)
        return y, last, *torch.autograd.grad((y**2).sum() + last.sum(), values)

    seen = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        seen.append(run())
    for other in seen[1:]:
        assert all(torch.equal(a, b) for a, b in zip(seen[0], other, strict=True))


def test_half_precision_is_computed_in_whole():
    values, fresh = draw(40, seed=7)
    halves = [value.detach().bfloat16() for value in values]
    with torch.autocast("cpu", torch.bfloat16):
        y, last = chosen(halves, fresh)
    wanted, state = chosen([value.float() for value in halves], fresh)
    assert y.dtype == torch.bfloat16 and last.dtype == torch.float32
    assert torch.equal(y, wanted.bfloat16()) and torch.equal(last, state)


def test_slices_need_no_copies_to_be_right():
    """What a layer hands over: parts of one product, side by side."""
    values, fresh = draw(20, seed=8, wide=32, N=4)
    u, dt, A, B, C, D, z, state = (value.detach() for value in values)
    u, z = torch.cat([u, z], dim=-1).chunk(2, dim=-1)
    _, B, C = torch.cat([u[..., :3], B, C], dim=-1).split([3, 4, 4], dim=-1)
    dt = dt.transpose(1, 2).contiguous().transpose(1, 2)
    got = chosen([u, dt, A, B, C, D, z, state.transpose(1, 2).contiguous().transpose(1, 2)], fresh)
    for a, b in zip(got, chosen(values, fresh), strict=True):
        assert torch.equal(a, b)


def test_without_gradients_no_states_are_kept():
    """In evaluation memory grows by y alone."""
    if kernels().there:
        values, fresh = draw(64, seed=9, wide=64, N=16)
        values, shapes = [value.detach() for value in values], []
        for keep in (False, True):
            found = torch.ops.nano_think.selective_scan(*values[:7], fresh, values[7], False, keep)
            shapes.append(found[2].numel())
        assert shapes == [0, 2 * 4 * 64 * 16]


def test_the_operators_keep_their_promises():
    """torch's own checks of the registration: schema, shapes for the compiler, gradients under tracing."""
    if kernels().there:
        values, fresh = draw(18, seed=10, wide=20, N=3)
        checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
        for given_values in ((*values[:7], fresh, values[7]), (*values[:6], None, fresh, None)):
            torch.library.opcheck(
                torch.ops.nano_think.selective_scan.default, (*given_values, True, True), test_utils=checks
            )


def test_the_scan_compiles_without_a_break():
    values, fresh = draw(18, seed=11, wide=20, N=3)
    if kernels().there:
        compiled = torch.compile(chosen, backend="aot_eager", fullgraph=True)
        for a, b in zip(compiled(values, fresh, True), chosen(values, fresh, True), strict=True):
            torch.testing.assert_close(a, b)
