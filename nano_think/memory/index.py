"""Nearest keys by inner product, with FAISS: exactly, by inverted lists, or by a graph.

S keys, Q queries, D model width, k neighbours, L lists
"""

from dataclasses import dataclass
from typing import Any, Literal

import faiss
import numpy as np

IndexKind = Literal["flat", "ivf", "hnsw"]
FLAT_UP_TO = 65_536
LISTS_PER_ROOT, SAMPLE_PER_LIST = 4, 40
# The recall that the number of probed lists is chosen for, at so many neighbours, on so many keys as queries. It is a
# little above the 0.99 that is promised, for what is measured on a sample.
RECALL, RECALL_AT, QUERIES = 0.995, 4, 256
# The lists hold keys in half precision; so many times k of them are compared exactly.
COMPARED = 2
GRAPH_LINKS, GRAPH_BUILD, GRAPH_SEARCH = 32, 40, 64
BLOCK = 65_536
# FAISS builds these from keywords, which its type hints do not know.
_SearchLists: Any = faiss.SearchParametersIVF
_SearchRefined: Any = faiss.IndexRefineSearchParameters
_SearchGraph: Any = getattr(faiss, "SearchParametersHNSW")  # noqa: B009


@dataclass(frozen=True, kw_only=True)
class Lists:
    """What training found: the lists' centres (L, D), each key's list (S), how many lists a query looks into, and the
    number of keys that it was trained on.
    """

    centre: np.ndarray
    list_of: np.ndarray
    probes: int
    trained_on: int


class Index:
    """Keys (S, D), numbered from 0 in the order of time.

    kind: "flat" compares with every key (exact), "ivf" with those in the lists nearest to the query, "hnsw" walks a
    graph (Malkov & Yashunin 2018), which can never forget a key and is here for comparison. Unless given: flat up to
    65,536 keys, ivf beyond. Lists are trained from the keys and hold them in half precision, half the bytes to read for
    each query; the nearest found so are compared exactly, for which all keys are kept beside them.
    """

    def __init__(self, keys_SD: np.ndarray, kind: IndexKind | None = None, lists: Lists | None = None):
        self.kind: IndexKind = kind or ("flat" if len(keys_SD) <= FLAT_UP_TO else "ivf")
        self.width, self.trained_on = keys_SD.shape[1], len(keys_SD)
        self.probes = 1
        self._whole: Any = None
        self._index = self._make(np.ascontiguousarray(keys_SD, dtype=np.float32), lists)

    def __len__(self) -> int:
        return self._index.ntotal

    def _make(self, keys_SD: np.ndarray, lists: Lists | None) -> Any:
        if self.kind == "ivf":
            return self._restored(keys_SD, lists) if lists else self._trained(keys_SD)
        index: Any
        if self.kind == "hnsw":
            index = faiss.IndexHNSWFlat(self.width, GRAPH_LINKS, faiss.METRIC_INNER_PRODUCT)
            index.hnsw.efConstruction = GRAPH_BUILD
        else:
            index = faiss.IndexFlatIP(self.width)
        index.add(keys_SD)
        return index

    def _trained(self, keys_SD: np.ndarray) -> Any:
        lists = max(1, min(int(LISTS_PER_ROOT * len(keys_SD) ** 0.5), len(keys_SD) // 2))
        base = self._around(faiss.IndexFlatIP(self.width), lists)
        # Small stores have fewer keys than FAISS asks for, which it would say on standard error.
        base.cp.min_points_per_centroid = 1
        base.train(keys_SD[:: max(1, len(keys_SD) // (SAMPLE_PER_LIST * lists))])
        base.add(keys_SD)
        index = faiss.IndexRefineFlat(base, faiss.swig_ptr(keys_SD))
        self.probes = _enough_probes(index, lists, keys_SD)
        return index

    def _around(self, centres: Any, lists: int) -> Any:
        """Lists without keys in them yet."""
        return faiss.IndexIVFScalarQuantizer(
            centres, self.width, lists, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
        )

    def _restored(self, keys_SD: np.ndarray, lists: Lists) -> Any:
        """As trained before: keys that were there go to their lists, later ones to the nearest."""
        centres = faiss.IndexFlatIP(self.width)
        centres.add(lists.centre)
        base = self._around(centres, len(lists.centre))
        base.train(lists.centre)
        known = len(lists.list_of)
        first_SD, list_S = keys_SD[:known], np.ascontiguousarray(lists.list_of, dtype=np.int64)
        base.add_core(known, faiss.swig_ptr(first_SD), None, faiss.swig_ptr(list_S))
        base.add(keys_SD[known:])
        self.probes, self.trained_on = lists.probes, lists.trained_on
        return faiss.IndexRefineFlat(base, faiss.swig_ptr(keys_SD))

    def lists(self) -> Lists | None:
        """What `lists` of a new index of these keys may be; None where nothing was trained."""
        if self.kind != "ivf":
            return None
        base: Any = faiss.downcast_index(self._index.base_index)
        count, list_S = base.nlist, np.empty(len(self), dtype=np.int32)
        for number in range(count):
            size = base.invlists.list_size(number)
            if size:
                list_S[faiss.rev_swig_ptr(base.invlists.get_ids(number), size)] = number
        centre_LD = base.quantizer.reconstruct_n(0, count)
        return Lists(centre=centre_LD, list_of=list_S, probes=self.probes, trained_on=self.trained_on)

    def fits(self, more: int) -> bool:
        """Whether `more` keys can be added; else the index is to be made anew: what was flat has become too large, or
        the keys are twice those that the lists were trained on.
        """
        total = len(self) + more
        return total <= FLAT_UP_TO if self.kind == "flat" else self.kind == "hnsw" or total <= 2 * self.trained_on

    def add(self, keys_SD: np.ndarray) -> None:
        self._index.add(keys_SD)

    def search(
        self, queries_QD: np.ndarray, k: int, older_Q: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest keys of each query: similarities (Q, k), -inf for none, and numbers (Q, k), -1 for none.

        Query q is shown keys 0 to `older_Q`[q] - 1 alone, all keys without it.
        """
        if older_Q is None:
            return self._search(queries_QD, k, len(self))
        similarity_Qk = np.full((len(queries_QD), k), -np.inf, dtype=np.float32)
        number_Qk = np.full((len(queries_QD), k), -1, dtype=np.int64)
        for older in np.unique(older_Q):
            rows = older_Q == older
            similarity_Qk[rows], number_Qk[rows] = self._search(queries_QD[rows], k, int(older))
        return similarity_Qk, number_Qk

    def _search(self, queries_QD: np.ndarray, k: int, older: int) -> tuple[np.ndarray, np.ndarray]:
        if not older:
            none_Qk = np.full((len(queries_QD), k), -1, dtype=np.int64)
            return np.full(none_Qk.shape, -np.inf, dtype=np.float32), none_Qk
        queries_QD = np.ascontiguousarray(queries_QD, dtype=np.float32)
        # One query gains nothing by a second thread. The number may be torch's too, which shares an OpenMP with FAISS
        # where the loader finds one for both.
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(min(threads, len(queries_QD)))
        try:
            similarity_Qk, number_Qk = self._index.search(queries_QD, k, params=self._parameters(older))
        finally:
            faiss.omp_set_num_threads(threads)
        similarity_Qk[number_Qk < 0] = -np.inf
        return similarity_Qk, number_Qk

    def _parameters(self, older: int) -> Any:
        """What is asked of FAISS for the first `older` keys; for all of them the same object each time."""
        if older < len(self):
            return self._asked(sel=faiss.IDSelectorRange(0, older))
        if self._whole is None:
            self._whole = self._asked()
        return self._whole

    def _asked(self, **selected: Any) -> Any:
        if self.kind == "ivf":
            return _refined(self.probes, **selected)
        if self.kind == "hnsw":
            return _SearchGraph(efSearch=GRAPH_SEARCH, **selected)
        return faiss.SearchParameters(**selected)


def _refined(probes: int, **selected: Any) -> Any:
    return _SearchRefined(k_factor=COMPARED, base_index_params=_SearchLists(nprobe=probes, **selected))


def _enough_probes(index: Any, lists: int, keys_SD: np.ndarray) -> int:
    """About the least number of probed lists with which keys, as queries, find their nearest others well enough: by
    doubling, then by halves of the last step.

    A key that is as near as the last of the nearest counts as found: copies of one key stand in for each other.
    """
    queries_QD = keys_SD[:: max(1, len(keys_SD) // QUERIES)][:QUERIES]
    # The query itself is among its nearest.
    wanted = min(RECALL_AT + 1, len(keys_SD))
    least_Q1 = search_plainly(keys_SD, queries_QD, wanted)[0][:, -1:] - 1e-5

    def enough(probes: int) -> bool:
        found_Qk, _ = index.search(queries_QD, wanted, params=_refined(probes))
        return bool((found_Qk >= least_Q1)[:, 1:].mean() >= RECALL)

    most = 1
    while most < lists and not enough(most):
        most = min(2 * most, lists)
    fewest = most // 2
    while most - fewest > max(1, most // 8):
        middle = (fewest + most) // 2
        fewest, most = (fewest, middle) if enough(middle) else (middle, most)
    return most


def search_plainly(keys_SD: np.ndarray, queries_QD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The plain twin of `Index.search`, for at least k keys: every query with every key, in blocks."""
    best_Qk = np.full((len(queries_QD), k), -np.inf, dtype=np.float32)
    number_Qk = np.full((len(queries_QD), k), -1, dtype=np.int64)
    for first in range(0, len(keys_SD), BLOCK):
        block_QS = queries_QD @ keys_SD[first : first + BLOCK].T
        all_QS = np.concatenate([best_Qk, block_QS], axis=1)
        numbers_QS = np.concatenate(
            [number_Qk, np.broadcast_to(np.arange(first, first + block_QS.shape[1]), block_QS.shape)], axis=1
        )
        top_Qk = np.argpartition(-all_QS, k - 1, axis=1)[:, :k]
        best_Qk, number_Qk = np.take_along_axis(all_QS, top_Qk, 1), np.take_along_axis(numbers_QS, top_Qk, 1)
    order_Qk = np.argsort(-best_Qk, axis=1, kind="stable")
    return np.take_along_axis(best_Qk, order_Qk, 1), np.take_along_axis(number_Qk, order_Qk, 1)
