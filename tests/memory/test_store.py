"""The vector store: exact up to a size, near enough beyond it, and never an entry that was not found."""

from pathlib import Path

import numpy as np
import pytest

from nano_think.core.errors import ArtifactError, StorageError
from nano_think.memory import index as index_module
from nano_think.memory import store as store_module
from nano_think.memory.entries import Entries
from nano_think.memory.index import IndexKind
from nano_think.memory.store import VectorStore

KINDS: tuple[IndexKind, ...] = ("flat", "ivf")


def unit(rows: int, width: int = 8, seed: int = 0) -> np.ndarray:
    keys = np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)
    return keys / np.linalg.norm(keys, axis=1, keepdims=True)


def make(keys: np.ndarray, values: np.ndarray) -> VectorStore:
    return VectorStore(Entries.of(keys, values))


def brute(keys: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-(queries @ keys.T), axis=1, kind="stable")[:, :k]


def test_search_finds_the_nearest_with_their_values():
    keys, queries, values = unit(200), unit(30, seed=1), np.arange(200) * 3
    similarity, value = make(keys, values).search(queries, 7)
    expected = brute(keys, queries, 7)
    assert (value == values[expected]).all()
    np.testing.assert_allclose(similarity, np.take_along_axis(queries @ keys.T, expected, 1), atol=1e-6)


def test_fewer_entries_than_asked_for_are_no_entries():
    """FAISS answers -1, which as an index is the last entry."""
    similarity, value = make(unit(3), np.array([5, 6, 7])).search(unit(4, seed=1), 6)
    assert (value[:, 3:] == -1).all() and (similarity[:, 3:] == -np.inf).all()
    assert (np.sort(value[:, :3], axis=1) == [5, 6, 7]).all() and np.isfinite(similarity[:, :3]).all()


def test_empty_store_finds_nothing():
    similarity, value = VectorStore(Entries.none(8)).search(unit(2), 5)
    assert (similarity == -np.inf).all() and (value == -1).all() and value.shape == (2, 5)


def test_no_queries_no_answers():
    similarity, value = make(unit(9), np.arange(9)).search(np.zeros((0, 8), np.float32), 5)
    assert similarity.shape == value.shape == (0, 5)


def test_shuffled_values_are_the_values_dealt_anew():
    store = make(unit(100), np.arange(100))
    shuffled_S = store.shuffled_values(1)
    assert sorted(shuffled_S) == list(range(100)) and (shuffled_S != store.entries.value).mean() > 0.9
    assert np.array_equal(store.shuffled_values(1), shuffled_S)
    assert not np.array_equal(store.shuffled_values(2), shuffled_S)


@pytest.mark.parametrize("flat_up_to", [1000, 100], ids=["flat", "lists"])
def test_what_is_saved_finds_the_same(flat_up_to: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(index_module, "FLAT_UP_TO", flat_up_to)
    store = make(unit(400), np.arange(400))
    store.save(tmp_path / "store.safetensors")
    loaded = VectorStore.load(tmp_path / "store.safetensors")
    for one, other in zip(store.search(unit(20, seed=1), 9), loaded.search(unit(20, seed=1), 9), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (Path.unlink, "missing"),
        (lambda p: p.write_bytes(p.read_bytes()[:-5]), "damaged"),
        (lambda p: p.write_bytes(b""), "damaged"),
    ],
    ids=["gone", "cut off", "empty"],
)
def test_damage_is_named(spoil, message: str, tmp_path: Path):
    path = tmp_path / "store.safetensors"
    make(unit(10), np.arange(10)).save(path)
    spoil(path)
    with pytest.raises(ArtifactError, match=f"store.safetensors: {message}"):
        VectorStore.load(path)


def test_full_disk_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(arrays, path, metadata):
        raise store_module.SafetensorError("Error while serializing: I/O error: No space (os error 28)")

    monkeypatch.setattr(store_module, "save_file", refuse)
    with pytest.raises(StorageError, match="no space left"):
        make(unit(3), np.arange(3)).save(tmp_path / "s.safetensors")


@pytest.mark.parametrize(("spoilt", "message"), [(np.nan, "not finite"), (3.0, "not of length 1")])
def test_keys_that_cannot_be_compared_are_refused(spoilt: float, message: str):
    keys = unit(5)
    keys[2, 0] = spoilt
    with pytest.raises(ArtifactError, match=message):
        make(keys, np.arange(5))


def test_entries_out_of_time_are_refused():
    with pytest.raises(ArtifactError, match="order of time"):
        VectorStore(Entries.of(unit(3), np.arange(3), time=np.array([1, 3, 3])))


def test_another_models_store_is_refused(tmp_path: Path):
    """Both digests are named."""
    VectorStore(Entries.of(unit(3), np.arange(3)), model="a" * 64).save(tmp_path / "s.safetensors")
    assert VectorStore.load(tmp_path / "s.safetensors", "a" * 64).model == "a" * 64
    with pytest.raises(ArtifactError, match=f"model {'a' * 12}, wanted {'b' * 12}"):
        VectorStore.load(tmp_path / "s.safetensors", "b" * 64)


@pytest.mark.parametrize("flat_up_to", [1000, 150], ids=["flat", "lists"])
def test_adding_one_by_one_is_having_them_at_once(flat_up_to: int, monkeypatch: pytest.MonkeyPatch):
    """Also across the size at which lists are trained; all lists are looked into, for those of the two may differ."""
    monkeypatch.setattr(index_module, "FLAT_UP_TO", flat_up_to)
    monkeypatch.setattr(index_module, "RECALL", 1.1)
    entries = Entries.of(unit(400), np.arange(400))
    at_once, grown = VectorStore(entries), VectorStore(Entries.none(8))
    for first in range(0, 400, 50):
        grown.add(entries.at(slice(first, first + 50)))
    assert len(grown) == 400 and grown.index.kind == at_once.index.kind
    assert np.array_equal(grown.search(unit(20, seed=1), 9)[1], at_once.search(unit(20, seed=1), 9)[1])


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_that_is_not_older_is_found(kind: IndexKind):
    """Entries at the time of the query and later change no bit of what it finds, whatever they hold."""
    keys, values, queries = unit(300), np.arange(300), unit(12, seed=1)
    before = np.array([0, 1, 5, 20, 50, 100, 150, 200, 250, 280, 299, 300])
    store = VectorStore(Entries.of(keys, values), kind=kind)
    similarity, value = store.search(queries, 8, before)
    assert (value < before[:, None]).all() and (value[3:, 0] >= 0).all()
    for query, time in enumerate(before):
        changed = keys.copy()
        changed[time:] = -queries[query]
        # The lists stay: were they trained on the later keys too, they would be another index.
        other = VectorStore(
            Entries.of(changed, np.where(values < time, values, -7)), kind=kind, lists=store.index.lists()
        )
        found = other.search(queries[query : query + 1], 8, before[query : query + 1])
        assert np.array_equal(found[0][0], similarity[query]) and np.array_equal(found[1][0], value[query])


def test_time_is_the_entries_own_and_not_their_number():
    store = VectorStore(Entries.of(unit(4), np.arange(4), time=np.array([10, 20, 30, 40])))
    for before, seen in [(10, 0), (11, 1), (30, 2), (31, 3), (99, 4)]:
        assert (store.search(unit(1), 4, np.array([before]))[1] >= 0).sum() == seen


def test_values_that_are_weighed_say_so():
    store = VectorStore(Entries.of(unit(3), np.arange(3), weight=np.array([1, 5, 2])))
    _, entry = store.find(unit(3)[1:2], 4)
    assert store.weights_of(entry)[0, 0] == 5 and store.weights_of(entry)[0, 3] == 0
