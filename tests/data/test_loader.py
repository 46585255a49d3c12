"""The loader: a pure function of (seed, step), each window once per epoch, over ranks without repeats or gaps."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nano_think.core.errors import InputError
from nano_think.data.loader import Balance, Windows, open_windows
from nano_think.data.tokens import TokenSet

# Every token is its own place, so that a window shows where it was cut.
TOKENS = np.arange(1000, dtype=np.uint16)


def starts(loader: Windows, places: range) -> list[int]:
    """The first tokens of the windows at these places of the endless row of windows."""
    steps = range(places.start // loader.batch_size, -(-places.stop // loader.batch_size))
    flat = np.concatenate([loader.batch(step)[:, 0] for step in steps])
    return flat[places.start - steps.start * loader.batch_size :][: len(places)].tolist()


@settings(deadline=None)
@given(length=st.integers(2, 400), window=st.integers(1, 40), batch=st.integers(1, 7), epoch=st.integers(0, 3))
def test_each_window_is_seen_once_an_epoch(length: int, window: int, batch: int, epoch: int) -> None:
    if length <= window:
        return
    loader = Windows(TOKENS[:length], window, batch, seed=3)
    count = loader.windows_per_epoch
    seen = sorted(starts(loader, range(epoch * count, (epoch + 1) * count)))
    assert np.all(np.diff(seen) == window)
    assert 0 <= seen[0] < window or count == 1
    # What no window of the epoch predicts is less than two windows.
    assert length - 1 - count * window < 2 * window


def test_neighbouring_windows_share_one_token() -> None:
    loader = Windows(TOKENS, window=16, batch=4, seed=1)
    rows = loader.batch(0)
    assert rows.shape == (4, 17)
    assert rows.dtype == np.int64
    assert np.array_equal(rows, rows[:, :1] + np.arange(17))


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    first, second = (Windows(TOKENS, 16, 4, seed=1) for _ in range(2))
    forward = [first.batch(step) for step in range(60)]
    backward = [second.batch(step) for step in reversed(range(60))]
    assert all(np.array_equal(a, b) for a, b in zip(forward, reversed(backward), strict=True))
    assert not np.array_equal(Windows(TOKENS, 16, 4, seed=2).batch(0), forward[0])


def test_epochs_differ_in_offset_and_order() -> None:
    loader = Windows(TOKENS, 16, 1, seed=1)
    count = loader.windows_per_epoch
    epochs = [starts(loader, range(epoch * count, (epoch + 1) * count)) for epoch in range(6)]
    assert len({min(epoch) % 16 for epoch in epochs}) > 2
    assert len({tuple(np.argsort(epoch)) for epoch in epochs}) == 6


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_share_a_batch_without_repeats_or_gaps(world: int) -> None:
    loader = Windows(TOKENS, 16, batch=8, seed=1)
    for step in (0, 7, 31):
        shares = [loader.batch(step, rank, world) for rank in range(world)]
        assert all(share.shape == (8 // world, 17) for share in shares)
        together = sorted(np.concatenate(shares)[:, 0].tolist())
        assert together == sorted(loader.batch(step)[:, 0].tolist())


def test_two_ranks_and_a_resume_in_the_epoch_see_each_window_once() -> None:
    loader = Windows(TOKENS, 10, batch=6, seed=5)
    half = loader.steps_per_epoch // 2
    seen = [loader.batch(step, rank, 2)[:, 0] for rank in range(2) for step in range(half)]
    resumed = Windows(TOKENS, 10, batch=6, seed=5)
    seen += [resumed.batch(step, rank, 2)[:, 0] for rank in range(2) for step in range(half, loader.steps_per_epoch)]
    windows = np.concatenate(seen).tolist()
    assert loader.windows_per_epoch == 99
    assert len(windows) == 102
    # The last batch ends with the first three windows of the next epoch.
    first = starts(loader, range(99))
    assert sorted(windows) == sorted(first + starts(loader, range(99, 102)))
    assert len(set(first)) == 99


def test_steps_per_epoch_cover_the_windows() -> None:
    loader = Windows(TOKENS, 16, batch=7, seed=1)
    assert (loader.windows_per_epoch, loader.steps_per_epoch) == (61, 9)


def test_one_window_is_enough_and_fewer_tokens_are_not() -> None:
    assert Windows(TOKENS[:17], 16, 2, seed=1).batch(5)[:, 0].tolist() == [0, 0]
    with pytest.raises(
        InputError, match=r"^16 tokens are fewer than one window of 16 \+ 1; give more text or a smaller"
    ):
        Windows(TOKENS[:16], 16, 2, seed=1)


@pytest.mark.parametrize("balance", ["proportional", "equal"])
def test_without_recut_each_epoch_has_the_windows_of_the_first(balance: Balance) -> None:
    """The first epoch is the same with and without; every window is among the distinct ones; repeats are counted."""
    table = pa.table({"offset": [0, 600], "tokens": [600, 400], "domain": ["a", "b"]})
    tokens = TokenSet(np.arange(1000, dtype=np.uint32), table)
    fixed, anew = (open_windows(tokens, 16, 1, 5, balance, recut=recut) for recut in (False, True))
    steps = 3 * fixed.windows_per_epoch
    rows = [fixed.batch(step)[0].tobytes() for step in range(steps)]
    distinct = [window.tobytes() for window in fixed.distinct()]
    assert len(set(distinct)) == len(distinct) and set(rows) == set(distinct)
    first = range(fixed.windows_per_epoch // 2)
    assert all(np.array_equal(fixed.batch(step), anew.batch(step)) for step in first)
    assert rows[: len(distinct)] != rows[fixed.windows_per_epoch :][: len(distinct)]
    assert abs(fixed.repeats(steps) - (steps - len(distinct))) < 2 and anew.repeats(steps) == 0
