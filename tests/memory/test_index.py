"""Indexes: what each finds, by what search through everything finds."""

import faiss
import numpy as np
import pytest
import torch

from nano_think.memory import index as index_module
from nano_think.memory.index import Index, IndexKind, search_plainly
from tests.memory.test_store import unit


def clustered(rows: int, seed: int, width: int = 32, clusters: int = 40) -> np.ndarray:
    """Unit vectors around common centres, as hidden states are."""
    centres = unit(clusters, width, seed=99)
    generator = np.random.default_rng(seed)
    noise = generator.normal(size=(rows, width)) * 0.6 / width**0.5
    keys = (centres[generator.integers(0, clusters, rows)] + noise).astype(np.float32)
    return keys / np.linalg.norm(keys, axis=1, keepdims=True)


def recall(found: np.ndarray, wanted: np.ndarray) -> float:
    return np.mean([len(set(f) & set(w)) / len(w) for f, w in zip(found, wanted, strict=True)]).item()


def test_plain_search_is_a_sort(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(index_module, "BLOCK", 7)
    keys, queries = unit(50), unit(9, seed=1)
    similarity, number = search_plainly(keys, queries, 5)
    assert np.array_equal(number, np.argsort(-(queries @ keys.T), axis=1)[:, :5])
    np.testing.assert_allclose(similarity, np.take_along_axis(queries @ keys.T, number, 1), rtol=1e-6)


@pytest.mark.parametrize(("kind", "least"), [("flat", 1.0), ("ivf", 0.99), ("hnsw", 0.99)])
@pytest.mark.parametrize("make", [clustered, unit], ids=["clustered", "uniform"])
def test_recall_at_four(make, kind: IndexKind, least: float):
    """Queries that are no keys; the lists that are looked into are as many as that takes."""
    keys, queries = make(4000, seed=0), make(200, seed=1)
    similarity, number = Index(keys, kind).search(queries, 4)
    assert recall(number, search_plainly(keys, queries, 4)[1]) >= least
    found = np.take_along_axis(queries @ keys.T, number, 1)
    np.testing.assert_allclose(similarity, found, atol=1e-6)


def test_keys_that_half_precision_cannot_order_are_in_the_order_of_their_similarity():
    """Eight keys around each place, each 1e-5 nearer than the next: the nearest four are found."""
    places, width = unit(50, width=32, seed=3), 32
    turns = np.random.default_rng(0).normal(size=(50, 8, width))
    turns -= (turns @ places[:, :, None]) * places[:, None]
    tilt = np.sqrt(2 * (0.02 + 1e-5 * np.arange(8)))[:, None] / np.linalg.norm(turns, axis=2, keepdims=True)
    keys = (places[:, None] + tilt * turns).reshape(-1, width)
    keys = (keys / np.linalg.norm(keys, axis=1, keepdims=True)).astype(np.float32)
    number = Index(keys, "ivf").search(places, 4)[1]
    assert np.array_equal(number, search_plainly(keys, places, 4)[1])
    assert np.array_equal(number, 8 * np.arange(50)[:, None] + np.arange(4))


def test_fewer_lists_are_looked_into_where_keys_are_clustered():
    near, far = Index(clustered(4000, seed=0), "ivf"), Index(unit(4000, 32), "ivf")
    assert near.probes < far.probes


def test_keys_of_one_place_can_be_told_apart_by_nothing():
    """A thousand copies of one key are all found as well as any."""
    assert Index(np.repeat(unit(1), 1000, axis=0), "ivf").probes == 1


def test_lists_restore_the_index_and_later_keys_join_them():
    keys, queries = clustered(3000, seed=0), clustered(50, seed=1)
    index = Index(keys[:2500], "ivf")
    restored = Index(keys, "ivf", index.lists())
    index.add(keys[2500:])
    assert len(restored) == 3000 and (restored.probes, restored.trained_on) == (index.probes, 2500)
    for one, other in zip(index.search(queries, 6), restored.search(queries, 6), strict=True):
        assert np.array_equal(one, other)


def test_an_index_says_when_it_is_to_be_made_anew(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(index_module, "FLAT_UP_TO", 100)
    assert Index(unit(60)).fits(40) and not Index(unit(60)).fits(41)
    lists = Index(unit(200))
    assert lists.kind == "ivf" and lists.fits(200) and not lists.fits(201)


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
@pytest.mark.parametrize("queries", [1, 40])
@pytest.mark.parametrize("threads", [1, 2])
def test_making_and_searching_leave_threads_as_they_are(kind: IndexKind, queries: int, threads: int):
    """FAISS and torch may share one OpenMP: what a search sets would be what the model then computes with."""
    torch.set_num_threads(threads)
    before = faiss.omp_get_max_threads()
    index = Index(unit(400, 8), kind)
    index.search(unit(queries, 8), 4)
    index.add(unit(3, 8))
    assert torch.get_num_threads() == threads and faiss.omp_get_max_threads() == before
