"""The second half of ingestion: the parts of all sources -> one corpus, without duplicates, divided into splits.

What is decided about documents is decided on arrays with a few numbers for each; the texts only pass through.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nano_think.core.files import read_json
from nano_think.data.clean import FRACTIONS, SPLITS
from nano_think.data.reading import Part
from nano_think.data.shards import ArrowWriter, DocumentWriter, read_batches

if TYPE_CHECKING:
    import pyarrow as pa

DROPPED = -1
SEEN = "seen.arrow"
_SEEN_ROWS = 2**18


class Merger:
    """All documents of some parts, N of them, in the order of the parts."""

    def __init__(self, parts: Sequence[Part]):
        self._parts = parts
        tables = [list(read_batches(part.index)) for part in parts]
        self.sizes = np.array([sum(batch.num_rows for batch in batches) for batches in tables], dtype=np.int64)
        everything = [batch for batches in tables for batch in batches]
        self.digests = _numbers(everything, "digest", 2)
        self.firsts = _numbers(everything, "first", 1)[:, 0]
        self.bytes = _column(everything, "bytes", np.int64)
        names = [name for batch in everything for name in batch.column("domain").to_pylist()]
        self.domain_names, self.domains = _coded(names)
        self.part_of = np.repeat(np.arange(len(parts)), self.sizes)
        self.sides = np.full(len(self.bytes), DROPPED, dtype=np.int8)
        self._left_out: Counter[str] = Counter()

    def choose(self, limit: int | None, fractions: Mapping[str, float] = FRACTIONS) -> None:
        """Decide for every document: its split, or `DROPPED` for a duplicate and for what is over a source's limit."""
        fresh = first_of_each(self.digests)
        chosen = fresh.copy()
        if limit is not None:
            for part in range(len(self._parts)):
                mine = np.flatnonzero(fresh & (self.part_of == part))
                chosen[mine] = within(limit, self.digests[mine, 1], self.bytes[mine])
        self._left_out = Counter(duplicates=int(np.sum(~fresh)), over_limit=int(np.sum(fresh & ~chosen)))
        self.sides = np.where(chosen, split_codes(self.firsts, fractions), DROPPED)

    def counts(self) -> dict[str, int]:
        """What each step of the cleaning left out or changed, and how many documents are kept."""
        total = Counter(self._left_out)
        for part in self._parts:
            total.update(read_json(part.note)["counts"])
        return dict(total) | {"kept": int(np.sum(self.sides != DROPPED))}

    def kept(self) -> list[dict[str, int]]:
        """Documents and bytes kept of each part."""
        return self._sums(self.part_of, self.sides != DROPPED, len(self._parts))

    def splits(self) -> dict[str, Any]:
        """Documents and bytes of each split, in all and by domain."""
        return {split: self._split(self.sides == code) for code, split in enumerate(SPLITS)}

    def _split(self, mine: np.ndarray) -> dict[str, Any]:
        found = self._sums(self.domains, mine, len(self.domain_names))
        domains = {name: sums for name, sums in zip(self.domain_names, found, strict=True) if sums["documents"]}
        return {"documents": int(mine.sum()), "bytes": int(self.bytes[mine].sum()), "domains": domains}

    def _sums(self, groups: np.ndarray, mine: np.ndarray, count: int) -> list[dict[str, int]]:
        documents = np.bincount(groups[mine], minlength=count)
        # Exact: sums of bytes stay far below 2^53.
        sizes = np.bincount(groups[mine], weights=self.bytes[mine], minlength=count).astype(np.int64)
        return [{"documents": int(n), "bytes": int(size)} for n, size in zip(documents, sizes, strict=True)]

    def lengths(self) -> dict[str, dict[str, int]]:
        """For each domain, how many kept documents have from 2^k to 2^(k+1) - 1 bytes: {domain: {"k": count}}."""
        powers = np.frexp(self.bytes)[1] - 1
        found: dict[str, dict[str, int]] = {}
        for code, name in enumerate(self.domain_names):
            counts = np.bincount(powers[(self.domains == code) & (self.sides != DROPPED)])
            if counts.sum():
                found[name] = {str(power): int(count) for power, count in enumerate(counts) if count}
        return found

    def write(self, out: Path) -> list[str]:
        """Write the shards of all splits and `seen.arrow`; the shards' names."""
        with contextlib.ExitStack() as stack:
            writers = [stack.enter_context(DocumentWriter(out, split)) for split in SPLITS]
            start = 0
            for batch in self._batches():
                rows = slice(start, start + batch.num_rows)
                self._divide(batch, self.sides[rows], self.bytes[rows], writers)
                start = rows.stop
        self._write_seen(out / SEEN)
        return [shard for writer in writers for shard in writer.shards]

    def _batches(self) -> Iterator["pa.RecordBatch"]:
        for part in self._parts:
            yield from read_batches(part.texts)

    @staticmethod
    def _divide(
        batch: "pa.RecordBatch", sides: np.ndarray, sizes: np.ndarray, writers: Sequence[DocumentWriter]
    ) -> None:
        import pyarrow as pa

        for code, writer in enumerate(writers):
            mine = sides == code
            if mine.any():
                writer.add(batch if mine.all() else batch.filter(pa.array(mine)), int(sizes[mine].sum()))

    def _write_seen(self, path: Path) -> None:
        import pyarrow as pa

        with ArrowWriter(path, pa.schema([("digest", pa.binary(16)), ("split", pa.string())])) as file:
            kept = np.flatnonzero(self.sides != DROPPED)
            for start in range(0, len(kept), _SEEN_ROWS):
                rows = kept[start : start + _SEEN_ROWS]
                raw = self.digests[rows].astype(">u8").tobytes()
                digests = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(rows), [None, pa.py_buffer(raw)])
                file.write({"digest": digests, "split": [SPLITS[code] for code in self.sides[rows]]})


def first_of_each(keys: np.ndarray) -> np.ndarray:
    """(N,) bool: whether row i of (N, 2) is the first of its value."""
    # Sorting is stable: equal rows stay in their order.
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    repeated = np.all(keys[order[1:]] == keys[order[:-1]], axis=1)
    fresh = np.ones(len(keys), dtype=bool)
    fresh[order[1:][repeated]] = False
    return fresh


def within(limit: int, places: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(N,) bool: the documents taken in the order of `places`, (N,) uint64, as long as `limit` bytes hold them.

    The places are parts of hashes, so the choice spreads over the whole, and a larger limit only adds to it.
    """
    chosen = np.zeros(len(sizes), dtype=bool)
    for index in np.argsort(places, kind="stable").tolist():
        if sizes[index] <= limit:
            chosen[index] = True
            limit -= int(sizes[index])
    return chosen


def split_codes(firsts: np.ndarray, fractions: Mapping[str, float]) -> np.ndarray:
    """(N,) int8: the place in `SPLITS` of each document, from the first 8 bytes of its digest; as `clean.split_of`."""
    positions = firsts.astype(np.float64) / 2**64
    codes = np.full(len(firsts), SPLITS.index("train"), dtype=np.int8)
    undecided = np.ones(len(firsts), dtype=bool)
    for split, share in fractions.items():
        mine = undecided & (positions < share)
        codes[mine] = SPLITS.index(split)
        undecided &= ~mine
        positions -= share
    return codes


def _numbers(batches: "list[pa.RecordBatch]", name: str, words: int) -> np.ndarray:
    """(N, words) uint64 of a column of fixed-size bytes, big-endian as in the digest."""
    raw = b"".join(_raw(batch.column(name), 8 * words) for batch in batches)
    return np.frombuffer(raw, dtype=">u8").reshape(-1, words).astype(np.uint64)


def _raw(column: "pa.FixedSizeBinaryArray", width: int) -> memoryview:
    data = memoryview(column.buffers()[1])
    return data[column.offset * width : (column.offset + len(column)) * width]


def _column(batches: "list[pa.RecordBatch]", name: str, kind: Any) -> np.ndarray:
    return np.concatenate([np.empty(0, kind), *(batch.column(name).to_numpy().astype(kind) for batch in batches)])


def _coded(names: list[str]) -> tuple[list[str], np.ndarray]:
    """(distinct names, sorted; the place of each name among them)."""
    distinct = sorted(set(names))
    places = {name: place for place, name in enumerate(distinct)}
    return distinct, np.fromiter((places[name] for name in names), np.int64, len(names))
