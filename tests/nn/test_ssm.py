"""The scan in chunks against the recurrence, in values and gradients."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nano_think.nn.ssm import StateSpaceMixer, scan_in_chunks, scan_sequentially
from tests.perturbation import randomise_zeros
from tests.tiny import few


def draw_scan(T: int, seed: int, most_dt: float = 1.0, document_share: float = 0.1) -> tuple[list[Tensor], Tensor]:
    """Inputs x, dt, A, B, C of odd sizes, and documents that begin anywhere."""
    generator = torch.Generator().manual_seed(seed)
    batch, heads, channels, n_state = 2, 3, 5, 7
    x = torch.randn(batch, T, heads, channels, generator=generator)
    dt = most_dt * torch.rand(batch, T, heads, generator=generator)
    A = -torch.tensor([0.01, 1.0, 16.0])
    B, C = (torch.randn(batch, T, n_state, generator=generator) for _ in range(2))
    documents = (torch.rand(batch, T, generator=generator) < document_share).cumsum(1)
    return [value.requires_grad_() for value in (x, dt, A, B, C)], documents


def relative(got: Tensor, wanted: Tensor) -> float:
    got, wanted = got.detach().double(), wanted.detach().double()
    return float((got - wanted).abs().max() / wanted.abs().max().clamp_min(1e-9))


@few(25)
@given(
    T=st.integers(1, 90),
    chunk=st.integers(1, 64),
    seed=st.integers(0, 9999),
    most_dt=st.sampled_from([0.01, 0.1, 1.0]),
    document_share=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
)
def test_scan_in_chunks_is_the_recurrence(T: int, chunk: int, seed: int, most_dt: float, document_share: float):
    values, documents = draw_scan(T, seed, most_dt, document_share)
    toward = torch.randn(2, T, 3, 5, generator=torch.Generator().manual_seed(seed + 1))
    plain, fast = scan_sequentially(*values, documents), scan_in_chunks(*values, documents, chunk)
    assert relative(fast, plain) < 1e-5
    plain_grads = torch.autograd.grad(plain, values, toward)
    for name, got, wanted in zip(
        ("x", "dt", "A", "B", "C"), torch.autograd.grad(fast, values, toward), plain_grads, strict=True
    ):
        assert relative(got, wanted) < 2e-5, name


def test_recurrence_is_the_sum_over_the_past():
    """y_t = sum over s <= t of C_t B_s exp(A (dt_{s+1} + ... + dt_t)) dt_s x_s: the oracle's own oracle."""
    (x, dt, A, B, C), documents = draw_scan(6, seed=3, document_share=0.0)
    t, head = 4, 1
    terms = [
        (C[0, t] @ B[0, s]) * torch.exp(A[head] * dt[0, s + 1 : t + 1, head].sum()) * dt[0, s, head] * x[0, s, head]
        for s in range(t + 1)
    ]
    torch.testing.assert_close(scan_sequentially(x, dt, A, B, C, documents)[0, t, head], torch.stack(terms).sum(0))


@pytest.mark.parametrize("most_dt", [30.0, 1e4])
def test_large_steps_do_not_overflow(most_dt: float):
    values, documents = draw_scan(50, seed=1, most_dt=most_dt)
    y = scan_in_chunks(*values, documents, 16)
    grads = torch.autograd.grad(y.sum(), values)
    assert all(value.isfinite().all() for value in (y, *grads))


def test_scan_stays_in_fp32_under_autocast():
    """Half precision is for the projections; a state that is rounded at every step forgets."""
    mixer = randomise_zeros(StateSpaceMixer(16, 32, n_state=8, head_width=8, taps=4, chunk=16))
    u, documents = torch.randn(2, 40, 16), torch.zeros(2, 40, dtype=torch.long)
    seen: list[torch.dtype] = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if function in (torch.einsum, torch.Tensor.matmul, torch.Tensor.__matmul__):
                seen.append(out.dtype)
            return out

    with torch.autocast("cpu", torch.bfloat16), Watch():
        mixer(u, documents)
    assert set(seen) == {torch.float32}


def test_chunk_length_does_not_change_the_result():
    torch.manual_seed(0)
    one = randomise_zeros(StateSpaceMixer(8, 16, n_state=4, head_width=8, taps=3, chunk=5))
    other = StateSpaceMixer(8, 16, n_state=4, head_width=8, taps=3, chunk=64)
    other.load_state_dict(one.state_dict())
    u, documents = torch.randn(2, 33, 8), (torch.rand(2, 33) < 0.1).cumsum(1)
    torch.testing.assert_close(one(u, documents), other(u, documents), atol=1e-5, rtol=1e-5)


def test_steps_start_between_a_thousandth_and_a_tenth():
    dt = torch.nn.functional.softplus(StateSpaceMixer(8, 64, n_state=2, head_width=8, taps=2, chunk=8).dt_bias)
    torch.testing.assert_close(dt[[0, -1]], torch.tensor([0.001, 0.1]), atol=1e-4, rtol=0.05)
