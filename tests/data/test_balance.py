"""Balanced sampling: shares kept, a domain used up before it repeats, a pure function of (seed, step), any ranks."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nano_think.core.errors import InputError
from nano_think.data.loader import BalancedWindows, Lean, Windows, apportion, domain_ranges, open_windows
from nano_think.data.tokens import TokenSet

WINDOW = 8
# Lengths of documents, in the order of the tokens: the ranges of a domain lie apart.
DOCUMENTS = [("big", 200), ("small", 30), ("big", 3), ("big", 400), ("tiny", 5), ("small", 31), ("big", 150)]


def make_tokens(documents: list[tuple[str, int]] = DOCUMENTS) -> TokenSet:
    """Every token is its own place, so that a window shows where it was cut."""
    lengths = np.array([length for _, length in documents], dtype=np.int64)
    names = [name for name, _ in documents]
    table = pa.table({"offset": lengths.cumsum() - lengths, "tokens": lengths.astype(np.int32), "domain": names})
    return TokenSet(np.arange(lengths.sum(), dtype=np.uint32), table)


def make_loader(balance="equal", batch=4, seed=1, tokens: TokenSet | None = None, **more) -> BalancedWindows:
    loader = open_windows(tokens or make_tokens(), WINDOW, batch, seed, balance, **more)
    assert isinstance(loader, BalancedWindows)
    return loader


def owners(tokens: TokenSet) -> np.ndarray:
    """The domain of every token."""
    rows = tokens.documents.to_pylist()
    return np.concatenate([np.full(row["tokens"], row["domain"]) for row in rows])


def rows_of(loader: BalancedWindows, windows: int, world: int = 1) -> np.ndarray:
    """The first windows of the endless row of them, put together from the ranks' shares."""
    steps = range(-(-windows // loader.batch_size))
    shares = [[loader.batch(step, rank, world) for rank in range(world)] for step in steps]
    return np.concatenate([np.stack(share, axis=1).reshape(-1, WINDOW + 1) for share in shares])[:windows]


def test_proportional_is_the_plain_loader():
    """Bit for bit, whatever the table of documents says."""
    tokens = make_tokens()
    plain, opened = Windows(tokens.tokens, WINDOW, 4, seed=3), open_windows(tokens, WINDOW, 4, 3)
    assert all(np.array_equal(plain.batch(step), opened.batch(step)) for step in range(90))
    assert plain.passes(10) == {}


def test_ranges_join_the_neighbours_of_one_domain():
    ranges = {name: value.tolist() for name, value in domain_ranges(make_tokens()).items()}
    assert ranges == {"big": [[0, 200], [230, 403], [669, 150]], "small": [[200, 30], [638, 31]], "tiny": [[633, 5]]}


@settings(deadline=None, max_examples=60)
@given(
    documents=st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 60)), min_size=1, max_size=12),
    batch=st.integers(1, 5), balance=st.sampled_from(["equal", "temperature"]), epoch=st.integers(0, 3),
)  # fmt: skip
def test_a_domain_is_used_up_before_it_repeats(documents, batch, balance, epoch):
    """Among the domain's draws, each run of as many as it has windows holds each of them once; no token is left out
    but those that no cut of less than two windows can hold.
    """
    tokens = make_tokens(documents)
    assume(len(tokens) > WINDOW)
    loader, owner = make_loader(balance, batch, tokens=tokens), owners(tokens)
    rows = rows_of(loader, loader.windows_per_epoch * (epoch + 1))
    assert all(len(set(owner[row])) == 1 for row in rows)
    for name, domain in loader.domains.items():
        place = np.flatnonzero(owner == name)
        ours = rows[owner[rows[:, 0]] == name]
        for first in range(0, len(ours) - domain.windows + 1, domain.windows):
            cut = np.searchsorted(place, ours[first : first + domain.windows])
            if domain.size <= WINDOW:
                assert np.array_equal(cut[0], np.arange(WINDOW + 1) % domain.size)
            else:
                assert np.all(np.diff(cut, axis=1) == 1)
                assert np.all(np.diff(np.sort(cut[:, 0])) == WINDOW)
                assert domain.size - domain.windows * WINDOW <= 2 * WINDOW


@pytest.mark.parametrize(("balance", "power"), [("equal", 0.0), ("temperature", 1 / 3)])
def test_each_domain_has_its_share_of_every_epoch(balance: str, power: float):
    tokens = make_tokens()
    loader, owner = make_loader(balance, tokens=tokens, temperature=3.0), owners(tokens)
    epoch = loader.windows_per_epoch
    sizes = Counter(owner.tolist())
    whole = sum(size**power for size in sizes.values())
    assert epoch == Windows(tokens.tokens, WINDOW, 4, 1).windows_per_epoch
    starts = rows_of(loader, 3 * epoch)[:, 0].reshape(3, epoch)
    for counts in (Counter(owner[row].tolist()) for row in starts):
        assert all(abs(counts[name] - epoch * size**power / whole) < 1 for name, size in sizes.items())
        assert counts.total() == epoch
    assert not np.array_equal(owner[starts[0]], owner[starts[1]])


@settings(deadline=None)
@given(weights=st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=9), seats=st.integers(1, 300))
def test_seats_are_shared_out_by_largest_remainder(weights: list[float], seats: int):
    given_seats, wanted = apportion(weights, seats), np.array(weights) / sum(weights) * seats
    assert given_seats.sum() == seats and given_seats.min() >= 0
    if seats >= len(weights):
        assert given_seats.min() >= 1
    if wanted.min() >= 1:
        assert np.all(np.abs(given_seats - wanted) < 1)


def test_a_domain_that_is_smaller_than_a_window_is_repeated_until_it_fills_one():
    loader = make_loader()
    rows = rows_of(loader, loader.windows_per_epoch)
    tiny = rows[rows[:, 0] == 633]
    assert len(tiny) == loader.slots[2] and np.all(tiny == [633, 634, 635, 636, 637, 633, 634, 635, 636])


def test_a_seam_between_two_ranges_is_where_a_document_starts():
    """Inside a window, wherever the places do not follow each other, the next token is the first of a document: the
    start token that is no target and that nobody looks across.
    """
    tokens = make_tokens()
    firsts = set(tokens.documents.column("offset").to_pylist())
    rows = rows_of(make_loader(tokens=tokens), 400)
    row, column = np.nonzero(np.diff(rows, axis=1) != 1)
    assert len(row) > 20
    assert set(rows[row, column + 1].tolist()) <= firsts


def test_passes_say_how_often_each_domain_is_gone_over():
    loader = make_loader()
    steps = 90
    passes, tokens = loader.passes(steps), Counter(owners(make_tokens())[rows_of(loader, steps * 4)[:, 0]].tolist())
    for name, size in Counter(owners(make_tokens()).tolist()).items():
        assert passes[name] == pytest.approx(tokens[name] * WINDOW / size, rel=0.1)
    assert passes["tiny"] > 10 * passes["big"]


@pytest.mark.parametrize("balance", ["equal", "temperature"])
def test_two_ranks_and_a_resume_in_the_epoch_see_what_one_sees(balance: str):
    """A new loader that goes on at any step, and ranks that share a batch, give the same windows in the same order."""
    whole = rows_of(make_loader(balance), 360)
    assert np.array_equal(whole, rows_of(make_loader(balance), 360, world=2))
    resumed = make_loader(balance)
    later = np.concatenate([resumed.batch(step) for step in range(37, 90)])
    assert np.array_equal(whole[37 * 4 :], later)


def test_a_batch_depends_on_seed_and_step_alone():
    first, second = make_loader(), make_loader()
    forward = [first.batch(step) for step in range(60)]
    backward = [second.batch(step) for step in reversed(range(60))]
    assert all(np.array_equal(a, b) for a, b in zip(forward, reversed(backward), strict=True))
    assert not np.array_equal(make_loader(seed=2).batch(0), forward[0])


def test_a_domain_more_leaves_the_cuts_of_the_others():
    """Each domain has its own branch of the seed."""
    more = make_loader(tokens=make_tokens([*DOCUMENTS, ("zoo", 90)]))
    for name, domain in make_loader().domains.items():
        assert np.array_equal(domain.draw(7), more.domains[name].draw(7))


def test_fewer_tokens_than_a_window_are_refused():
    for documents in ([], [("a", 4), ("b", 4)]):
        with pytest.raises(InputError, match=r"tokens are fewer than one window of 8 \+ 1"):
            open_windows(make_tokens(documents), WINDOW, 2, 1, "equal")


def test_each_pass_and_each_domain_is_cut_anew():
    """Offset and order differ from pass to pass, and between two domains of one size."""
    loader = make_loader(tokens=make_tokens([("a", 103), ("b", 103)]))
    cuts = [[domain._cut(number) for number in range(6)] for domain in loader.domains.values()]
    assert all(len({offset for offset, _ in cut}) > 2 for cut in cuts)
    assert len({tuple(order) for cut in cuts for _, order in cut}) == 12


@pytest.mark.parametrize(("reader", "own"), [(0, ("big",)), (1, ("small",)), (2, ("tiny",)), (3, ("big",))])
def test_each_reader_leans_to_domains_of_its_own(reader, own):
    """The largest to the first; more readers than domains begin anew."""
    assert Lean(reader=reader, readers=4, by=2).domains({"tiny": 5, "big": 753, "small": 61}) == own


def test_few_readers_lean_to_several_domains():
    assert Lean(reader=0, readers=2, by=2).domains({"tiny": 5, "big": 753, "small": 61}) == ("big", "tiny")


def test_a_domain_that_is_leant_to_has_as_many_times_its_share():
    """Against the other domains, which keep theirs among themselves."""
    documents = [("big", 4000), ("small", 1000), ("other", 1000)]
    loader = make_loader("proportional", tokens=make_tokens(documents), lean=Lean(reader=1, readers=3, by=4.0))
    assert sorted(loader.domains) == ["big", "other", "small"]
    shares = loader.slots / loader.slots.sum()
    # "other" comes before "small" among equals, so it is the second largest.
    np.testing.assert_allclose(shares, [4 / 9, 4 / 9, 1 / 9], atol=2 / loader.slots.sum())
