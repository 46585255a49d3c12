"""Documents -> one long row of token ids per split, in Arrow files that are read by memory map without a copy."""

import contextlib
import mmap
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, TypeVar

import numpy as np

from nano_think.core.errors import ArtifactError, storage
from nano_think.core.files import read_json, replacing, write_json
from nano_think.data.clean import SPLITS
from nano_think.data.shards import ArrowWriter, arrow_file, document_shards, read_batches

if TYPE_CHECKING:
    import pyarrow as pa

COUNTS = ("tokens", "documents", "bytes")
# What the engine encodes in one go, in bytes of text.
GROUP_BYTES = 2**20
PART_BYTES = 2**24

X = TypeVar("X")
Y = TypeVar("Y")


class Encoder(Protocol):
    """What turns documents into ids: a `Tokenizer`, or what does it for chats."""

    vocab_size: int

    def encode_many(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids and lengths of the documents, as `Tokenizer.encode_many`."""


def write_tokens(documents: Path, tokenizer: Encoder, out: Path, threads: int = 1) -> dict[str, Any]:
    """Encode every split of `documents`; the result does not depend on `threads`, nor on interruptions.

    Writes `out/SPLIT.tokens.arrow` (column tokens: uint16, or uint32 for vocabularies over 65,535; one record batch)
    and `out/SPLIT.documents.arrow` (offset of the start token, tokens with it, bytes of UTF-8, source, id, domain).
    A folder belongs to its documents and tokenizer: shards that an interrupted run has finished are not encoded again.
    Returns {"vocab_size", "dtype", "splits": {split: {tokens, documents, bytes, domains: {domain: the same three}}}}.
    """
    work = out / "work" / "tokens"
    with storage(out), ThreadPoolExecutor(threads) as pool:
        work.mkdir(parents=True, exist_ok=True)
        splits = {}
        for split in SPLITS:
            draft = Draft(work, split, tokenizer)
            for number, shard in enumerate(document_shards(documents, split)):
                if not draft.has(number):
                    draft.add(number, shard, pool, ahead=threads)
            splits[split] = draft.finish(out)
    shutil.rmtree(work)
    with contextlib.suppress(OSError):
        work.parent.rmdir()
    return {"vocab_size": tokenizer.vocab_size, "dtype": token_type(tokenizer.vocab_size).name, "splits": splits}


def token_type(vocab_size: int) -> np.dtype:
    """The narrowest of uint16 and uint32 that holds every id."""
    return np.dtype(np.uint32 if vocab_size > 65535 else np.uint16)


def _document_schema() -> "pa.Schema":
    import pyarrow as pa

    numbers = [("offset", pa.int64()), ("tokens", pa.int32()), ("bytes", pa.int32())]
    return pa.schema([*numbers, *((name, pa.string()) for name in ("source", "id", "domain"))])


class Draft:
    """The tokens of one split while they are made: all ids in one file, and for each shard of documents that is done a
    table and, written last, a note that says where its ids end.
    """

    def __init__(self, folder: Path, split: str, tokenizer: Encoder):
        self._folder, self._split, self._tokenizer = folder, split, tokenizer
        self._type = token_type(tokenizer.vocab_size)
        self._ids = folder / f"{split}.ids"
        self._notes: list[dict[str, Any]] = []
        while (note := self._place(len(self._notes), "json")).is_file():
            self._notes.append(read_json(note))

    def _place(self, number: int, kind: str) -> Path:
        return self._folder / f"{self._split}-{number:05d}.{kind}"

    def has(self, number: int) -> bool:
        return number < len(self._notes)

    def add(self, number: int, shard: Path, pool: Executor, ahead: int) -> None:
        """Encode a shard of documents, up to `ahead` groups of about 1 MB at a time."""
        start = self._notes[-1]["end"] if self._notes else 0
        with (
            self._ids.open("r+b" if self._ids.exists() else "wb") as raw,
            ArrowWriter(self._place(number, "arrow"), _document_schema()) as table,
        ):
            raw.truncate(start * self._type.itemsize)
            raw.seek(0, os.SEEK_END)
            for group, (ids, lengths) in _in_order(pool, self._encoded, _groups(read_batches(shard)), ahead):
                # Not tofile: its error on a full disk does not say so.
                raw.write(ids.data)
                table.write(_table_rows(group, lengths, start))
                start += len(ids)
            raw.flush()
            os.fsync(raw.fileno())
        self._notes.append({"end": start})
        write_json(self._place(number, "json"), self._notes[-1])

    def _encoded(self, group: "pa.RecordBatch") -> tuple[np.ndarray, np.ndarray]:
        ids, lengths = self._tokenizer.encode_many(group.column("text").to_pylist())
        return ids.astype(self._type), lengths

    def finish(self, out: Path) -> dict[str, Any]:
        """Write the split's two files, and count."""
        counts: dict[str, dict[str, int]] = {}
        with ArrowWriter(out / f"{self._split}.documents.arrow", _document_schema()) as table:
            for number in range(len(self._notes)):
                for batch in read_batches(self._place(number, "arrow")):
                    table.write_batch(batch)
                    _count(batch, counts)
        _write_ids(self._ids, out / f"{self._split}.tokens.arrow", self._type)
        total = {name: sum(count[name] for count in counts.values()) for name in COUNTS}
        return total | {"domains": dict(sorted(counts.items()))}


def _groups(batches: "Iterable[pa.RecordBatch]") -> "Iterator[pa.RecordBatch]":
    """Neighbouring documents of one batch, as many as `GROUP_BYTES` hold and at least one."""
    import pyarrow.compute as pc

    for batch in batches:
        ends = np.cumsum(pc.binary_length(batch.column("text")).to_numpy().astype(np.int64))
        start = 0
        while start < batch.num_rows:
            done = int(ends[start - 1]) if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, done + GROUP_BYTES, side="right")))
            yield batch.slice(start, stop - start)
            start = stop


def _in_order(pool: Executor, work: Callable[[X], Y], items: Iterable[X], ahead: int) -> Iterator[tuple[X, Y]]:
    """(item, work(item)) in the order of the items, of which no more than `ahead` wait."""
    waiting: deque[tuple[X, Future[Y]]] = deque()
    for item in items:
        waiting.append((item, pool.submit(work, item)))
        if len(waiting) > ahead:
            first, future = waiting.popleft()
            yield first, future.result()
    for first, future in waiting:
        yield first, future.result()


def _table_rows(group: "pa.RecordBatch", lengths: np.ndarray, start: int) -> dict[str, Any]:
    import pyarrow.compute as pc

    return {
        "offset": start + np.cumsum(lengths, dtype=np.int64) - lengths,
        "tokens": lengths.astype(np.int32),
        "bytes": pc.binary_length(group.column("text")),
        **{name: group.column(name) for name in ("source", "id", "domain")},
    }


def _count(batch: "pa.RecordBatch", counts: dict[str, dict[str, int]]) -> None:
    import pyarrow as pa

    sums = (
        pa.Table.from_batches([batch])
        .group_by("domain")
        .aggregate([("tokens", "sum"), ("bytes", "sum"), ([], "count_all")])
    )
    for row in sums.to_pylist():
        count = counts.setdefault(row["domain"], dict.fromkeys(COUNTS, 0))
        for name, column in zip(COUNTS, ("tokens_sum", "count_all", "bytes_sum"), strict=True):
            count[name] += row[column]


def _write_ids(spool: Path, path: Path, ids_type: np.dtype) -> None:
    """One record batch, so that a reader has one array: its length is known only now. The spool is mapped, not read."""
    import pyarrow as pa

    schema = pa.schema([("tokens", pa.from_numpy_dtype(ids_type))])
    with replacing(path) as temporary, temporary.open("wb") as file, spool.open("rb") as raw:
        # Nothing cannot be mapped.
        some = os.fstat(raw.fileno()).st_size > 0
        mapped = mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) if some else None
        ids = np.frombuffer(mapped or b"", ids_type)
        with pa.ipc.new_file(pa.PythonFile(_Forgetting(file, mapped), "w") if mapped else file, schema) as writer:
            writer.write_batch(pa.record_batch({"tokens": ids}, schema=schema))


class _Forgetting:
    """A file that is written to by parts; after each, pages of `mapped` are let go, which would all count as ours."""

    closed = False

    def __init__(self, file: BinaryIO, mapped: mmap.mmap):
        self._file, self._mapped = file, mapped

    def write(self, data: Any) -> int:
        view = memoryview(data)
        for start in range(0, len(view), PART_BYTES):
            self._file.write(view[start : start + PART_BYTES])
            self._mapped.madvise(mmap.MADV_DONTNEED)
        return len(view)

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self.closed = True


@dataclass(frozen=True, slots=True)
class TokenSet:
    """One split: all its tokens in a row, memory-mapped, and the table of its documents."""

    tokens: np.ndarray
    """(N,) uint16 or uint32, read-only; each document starts with the start token."""
    documents: "pa.Table"
    """offset, tokens (with the start token), bytes, source, id, domain; in the order of the tokens."""

    @classmethod
    def open(cls, folder: Path, split: str) -> "TokenSet":
        """A split, or several joined by "+", one behind the other: "train+router".

        Raises `ArtifactError` for files that are missing, cut off, or do not fit together.
        """
        if "+" in split:
            return cls.join([cls.open(folder, one) for one in split.split("+")])
        with arrow_file(folder / f"{split}.documents.arrow") as file:
            documents = file.read_all()
        path = folder / f"{split}.tokens.arrow"
        with arrow_file(path) as file:
            ours = file.schema.names == ["tokens"] and file.num_record_batches == 1
            ids = file.get_batch(0).column(0).to_numpy(zero_copy_only=True) if ours else None
        ours = documents.schema == _document_schema()
        if ids is None or not ours or len(ids) != np.sum(documents.column("tokens").to_numpy()):
            raise ArtifactError(f"{path}: does not fit its table of documents; remove both and run again")
        return cls(ids, documents)

    @classmethod
    def join(cls, parts: Sequence["TokenSet"]) -> "TokenSet":
        """The parts one behind the other, in memory."""
        import pyarrow as pa

        tables, first = [], 0
        for part in parts:
            offsets = pa.array(part.documents.column("offset").to_numpy() + first, pa.int64())
            tables.append(part.documents.set_column(0, "offset", offsets))
            first += len(part)
        return cls(np.concatenate([part.tokens for part in parts]), pa.concat_tables(tables))

    def __len__(self) -> int:
        return len(self.tokens)


def unigram(folder: Path, split: str, vocab_size: int) -> np.ndarray:
    """(vocab_size,) float32: log probability of each token with add-one smoothing.

    The start tokens of documents do not count: nothing ever predicts them.
    """
    opened = TokenSet.open(folder, split)
    counts = np.zeros(vocab_size, dtype=np.int64)
    # np.bincount copies to int64: by parts, so that the copy stays small.
    for start in range(0, len(opened), 2**22):
        counts += np.bincount(opened.tokens[start : start + 2**22], minlength=vocab_size)
    starts = opened.tokens[opened.documents.column("offset").to_numpy()]
    counts -= np.bincount(starts, minlength=vocab_size)
    return np.log((counts + 1) / (counts.sum() + vocab_size)).astype(np.float32)
