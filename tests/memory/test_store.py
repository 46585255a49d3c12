"""The vector store: exact up to a size, near enough beyond it, and never an entry that was not found."""

from pathlib import Path

import numpy as np
import pytest

from nano_think.core.errors import ArtifactError, StorageError
from nano_think.memory import store as store_module
from nano_think.memory.store import VectorStore


def unit(rows: int, width: int = 8, seed: int = 0) -> np.ndarray:
    keys = np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)
    return keys / np.linalg.norm(keys, axis=1, keepdims=True)


def brute(keys: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-(queries @ keys.T), axis=1, kind="stable")[:, :k]


def test_search_finds_the_nearest_with_their_values():
    keys, queries, values = unit(200), unit(30, seed=1), np.arange(200) * 3
    similarity, value = VectorStore(keys, values).search(queries, 7)
    expected = brute(keys, queries, 7)
    assert (value == values[expected]).all()
    np.testing.assert_allclose(similarity, np.take_along_axis(queries @ keys.T, expected, 1), atol=1e-6)


def test_fewer_entries_than_asked_for_are_no_entries():
    """FAISS answers -1, which as an index is the last entry."""
    similarity, value = VectorStore(unit(3), np.array([5, 6, 7])).search(unit(4, seed=1), 6)
    assert (value[:, 3:] == -1).all() and (similarity[:, 3:] == -np.inf).all()
    assert (np.sort(value[:, :3], axis=1) == [5, 6, 7]).all() and np.isfinite(similarity[:, :3]).all()


def test_empty_store_finds_nothing():
    similarity, value = VectorStore(np.zeros((0, 8), np.float32), np.zeros(0)).search(unit(2), 5)
    assert (similarity == -np.inf).all() and (value == -1).all() and value.shape == (2, 5)


def test_no_queries_no_answers():
    similarity, value = VectorStore(unit(9), np.arange(9)).search(np.zeros((0, 8), np.float32), 5)
    assert similarity.shape == value.shape == (0, 5)


def test_large_store_is_searched_in_lists_and_finds_most(monkeypatch: pytest.MonkeyPatch):
    """Past the size, an approximate index; its recall at 10 is high and what it finds is right."""
    monkeypatch.setattr(store_module, "FLAT_UP_TO", 500)
    keys, queries = unit(2500), unit(50, seed=1)
    store = VectorStore(keys, np.arange(2500))
    assert type(store.index).__name__ == "IndexIVFFlat"
    similarity, value = store.search(queries, 10)
    recall = np.mean(
        [len(set(got) & set(best)) / 10 for got, best in zip(value, brute(keys, queries, 10), strict=True)]
    )
    assert 0.5 < recall <= 1
    found = value >= 0
    np.testing.assert_allclose(similarity[found], (queries @ keys.T)[np.nonzero(found)[0], value[found]], atol=1e-6)
    own = store.search(keys[:100], 1)[1][:, 0]
    assert (own == np.arange(100)).mean() == 1


def test_shuffled_store_keeps_keys_and_deals_values_anew():
    store = VectorStore(unit(100), np.arange(100))
    shuffled = store.shuffled(1)
    assert np.array_equal(shuffled.keys, store.keys) and sorted(shuffled.values) == list(range(100))
    assert (shuffled.values != store.values).mean() > 0.9
    assert np.array_equal(store.shuffled(1).values, shuffled.values)
    assert not np.array_equal(store.shuffled(2).values, shuffled.values)


@pytest.mark.parametrize("flat_up_to", [1000, 100], ids=["flat", "lists"])
def test_what_is_saved_finds_the_same(flat_up_to: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(store_module, "FLAT_UP_TO", flat_up_to)
    store = VectorStore(unit(400), np.arange(400))
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
    VectorStore(unit(10), np.arange(10)).save(path)
    spoil(path)
    with pytest.raises(ArtifactError, match=f"store.safetensors: {message}"):
        VectorStore.load(path)


def test_full_disk_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(arrays, path):
        raise store_module.SafetensorError("Error while serializing: I/O error: No space (os error 28)")

    monkeypatch.setattr(store_module, "save_file", refuse)
    with pytest.raises(StorageError, match="no space left"):
        VectorStore(unit(3), np.arange(3)).save(tmp_path / "s.safetensors")


def test_keys_that_are_not_finite_are_refused():
    keys = unit(5)
    keys[2, 0] = np.nan
    with pytest.raises(ArtifactError, match="not finite"):
        VectorStore(keys, np.arange(5))
