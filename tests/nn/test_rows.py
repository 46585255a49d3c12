"""The parts of a step: each kernel and its plain twin agree, and no row's bits depend on the others."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nano_think.nn.cache import KeyValues, Rows, Slot
from nano_think.nn.causal_conv import ScanState
from nano_think.nn.norm import RMSNorm
from nano_think.nn.rope import Rope
from nano_think.nn.rows import (
    attend_rows,
    attend_rows_plainly,
    linear_rows,
    linear_rows_plainly,
    place_heads,
    place_heads_plainly,
)
from nano_think.nn.ssm import StateSpaceMixer
from tests.perturbation import randomise_zeros
from tests.tiny import few

CLOSE = {"atol": 2e-5, "rtol": 1e-4}
SLOTS, PLACES = 5, 19


def rows_at(R: int, seed: int = 0) -> Rows:
    """R rows in slots of their own, each somewhere in its slot, its document begun somewhere before."""
    drawn = torch.Generator().manual_seed(seed)
    place_R = torch.randint(0, PLACES - 1, (R,), generator=drawn)
    begin_R = (place_R * torch.rand(R, generator=drawn)).long()
    return Rows(torch.stack([torch.randperm(SLOTS, generator=drawn)[:R], place_R, begin_R]))


def normed(width: int) -> RMSNorm:
    norm = RMSNorm(width)
    nn.init.normal_(norm.weight)
    return norm


@few(60)
@given(
    R=st.integers(1, 19), K=st.integers(1, 70), outputs=st.integers(1, 50), norm=st.booleans(), scale=st.booleans(),
    add=st.booleans(), gate=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
@torch.inference_mode()
def test_linear_rows(R: int, K: int, outputs: int, norm: bool, scale: bool, add: bool, gate: bool, seed: int):
    """Any number of rows, inputs and outputs, with any of what may go before and behind."""
    torch.manual_seed(seed)
    x_RK, weight_OK = torch.randn(R, K), torch.randn(2 * outputs if gate else outputs, K)
    # As the halves of a longer row: not contiguous.
    scale_SK = torch.randn(2 if R % 2 == 0 else 1, 2 * K)[:, K:] if scale else None
    add_RO = torch.randn(R, outputs) if add and not gate else None
    what = (weight_OK, normed(K) if norm else None, scale_SK)
    got, wanted = linear_rows(x_RK, *what, add_RO, gate), linear_rows_plainly(x_RK, *what, add_RO, gate)
    torch.testing.assert_close(got, wanted, **CLOSE)


@torch.inference_mode()
@pytest.mark.parametrize("R", [2, 3, 5, 8, 11])
def test_bits_of_a_linear_row_are_those_that_it_has_alone(R: int):
    x_RK, weight_OK, norm = torch.randn(R, 53), torch.randn(37, 53), normed(53)
    together = linear_rows(x_RK, weight_OK, norm)
    alone = [linear_rows(x_1K.contiguous(), weight_OK, norm) for x_1K in x_RK.split(1)]
    assert torch.equal(together, torch.cat(alone))


def kept(heads: int, width: int) -> KeyValues:
    """Keys and values of all slots."""
    cache = KeyValues(PLACES)
    for slot in range(SLOTS):
        one = KeyValues(PLACES)
        one.write(0, torch.randn(1, heads, PLACES, width), torch.randn(1, heads, PLACES, width))
        cache.join(one, Slot(slot, SLOTS, PLACES))
    return cache


@pytest.mark.parametrize("norm", [lambda width: nn.RMSNorm(width), lambda width: nn.Identity()], ids=["norm", "none"])
@pytest.mark.parametrize(("heads", "width"), [(1, 2), (3, 10), (2, 64)])
@torch.inference_mode()
def test_place_heads(heads: int, width: int, norm):
    """The same queries, and the same keys and values at the same places; no other place is touched."""
    caches, rows = [kept(heads, width) for _ in range(2)], rows_at(4)
    for mine, other in zip(caches[0].all(), caches[1].all(), strict=True):
        mine.copy_(other)
    before = [part.clone() for part in caches[0].all()]
    what = (torch.randn(4, 3 * heads * width), norm(width), norm(width), Rope(width)(torch.arange(PLACES)), rows)
    torch.testing.assert_close(place_heads(*what, caches[0]), place_heads_plainly(*what, caches[1]), **CLOSE)
    for got, wanted, old in zip(caches[0].all(), caches[1].all(), before, strict=True):
        torch.testing.assert_close(got, wanted, **CLOSE)
        changed = (got != old).any(dim=(1, 3)).nonzero().tolist()
        assert sorted(changed) == sorted(rows.at_3R[:2].T.tolist())


@few(30)
@given(R=st.integers(1, 5), heads=st.integers(1, 3), width=st.integers(1, 80), seed=st.integers(0, 99))
@torch.inference_mode()
def test_attend_rows(R: int, heads: int, width: int, seed: int):
    """Of each slot, only what the row sees: NaN everywhere else."""
    torch.manual_seed(seed)
    rows, q_RNH = rows_at(R, seed), torch.randn(R, heads, width)
    keys, values = kept(heads, width).all()
    wanted = attend_rows_plainly(q_RNH, keys, values, rows, 0.3)
    seen = torch.zeros(SLOTS, PLACES, dtype=torch.bool)
    for slot, place, begin in rows.at_3R.T.tolist():
        seen[slot, begin : place + 1] = True
    hidden = ~seen[:, None, :, None]
    got = attend_rows(q_RNH, keys.masked_fill(hidden, torch.nan), values.masked_fill(hidden, torch.nan), rows, 0.3)
    torch.testing.assert_close(got, wanted, **CLOSE)


@torch.inference_mode()
def test_attend_rows_over_shared_keys():
    """Heads that share one row per place, whose values are a part of it, as in latent attention."""
    rows, q_RNH, shared = rows_at(4), torch.randn(4, 3, 20), torch.randn(SLOTS, 1, PLACES, 20).expand(-1, 3, -1, -1)
    what = (q_RNH, shared, shared[..., :13], rows, 0.2)
    torch.testing.assert_close(attend_rows(*what), attend_rows_plainly(*what), **CLOSE)


def test_large_scores_do_not_overflow():
    rows, q = rows_at(2), torch.full((2, 1, 4), 1e4)
    keys, values = kept(1, 4).all()
    got = attend_rows(q, keys, values, rows, 1.0)
    torch.testing.assert_close(got, attend_rows_plainly(q, keys, values, rows, 1.0), **CLOSE)


@pytest.mark.parametrize("wrong", [(9, 3, 0), (-1, 3, 0), (0, PLACES, 0), (0, 3, 4), (0, 3, -1)], ids=str)
def test_nothing_outside_of_a_cache_is_read(wrong: tuple[int, int, int]):
    keys, values = kept(1, 4).all()
    with pytest.raises(RuntimeError, match="row 0 is in slot"):
        attend_rows(torch.randn(1, 1, 4), keys, values, Rows(torch.tensor(wrong)[:, None]), 1.0)


@few(12)
@given(
    taps=st.integers(1, 5),
    n_state=st.sampled_from([4, 16, 20]),
    head=st.sampled_from([2, 8, 20]),
    seed=st.integers(0, 99),
)
@torch.inference_mode()
def test_scan_rows(taps: int, n_state: int, head: int, seed: int):
    """Some tokens of some rows, one after another: outputs and what is kept."""
    torch.manual_seed(seed)
    mixer = randomise_zeros(StateSpaceMixer(12, 2 * head, n_state, head, taps, 8)).eval()
    width, E = 2 * head + 2 * n_state, mixer.project.out_features
    states = [ScanState(taps) for _ in range(2)]
    for state in states:
        state.tail_BTI, state.state = torch.zeros(SLOTS, taps - 1, width), torch.zeros(SLOTS, 2, head, n_state)
    for place in range(7):
        at = [(slot, place, 0 if place < 4 else 4) for slot in (3, 0, 1)]
        rows, projected_RE = Rows(torch.tensor(at).T.contiguous()), torch.randn(3, E)
        got, wanted = (
            mixer.scan_rows(projected_RE, rows, states[0]),
            mixer.scan_rows_plainly(projected_RE, rows, states[1]),
        )
        torch.testing.assert_close(got, wanted, **CLOSE)
        for mine, other in zip(states[0].kept(), states[1].kept(), strict=True):
            torch.testing.assert_close(mine, other, **CLOSE)
