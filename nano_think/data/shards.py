"""Documents in Arrow IPC files that any Arrow tool reads, written in bounded memory and read by memory map."""

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from nano_think.core.errors import ArtifactError
from nano_think.core.files import replacing
from nano_think.data.clean import choice_order, text_digest
from nano_think.data.document import Document

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ("text", "source", "id", "domain")
BATCH_BYTES = 4 * 2**20
SHARD_BYTES = 256 * 2**20


class ArrowWriter:
    """Appends record batches to one Arrow IPC file, which takes its name when the `with` block ends well."""

    def __init__(self, path: Path, schema: "pa.Schema"):
        self.schema = schema
        self._aside = replacing(path)

    def __enter__(self) -> "ArrowWriter":
        import pyarrow as pa

        with contextlib.ExitStack() as stack:
            temporary = stack.enter_context(self._aside)
            file = stack.enter_context(temporary.open("wb"))
            self._file = stack.enter_context(pa.ipc.new_file(file, self.schema))
            self._stack = stack.pop_all()
        return self

    def write(self, columns: dict[str, Any]) -> None:
        import pyarrow as pa

        self.write_batch(pa.record_batch(columns, schema=self.schema))

    def write_batch(self, batch: "pa.RecordBatch") -> None:
        self._file.write_batch(batch)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._stack.__exit__(kind, error, trace)


def document_schema() -> "pa.Schema":
    import pyarrow as pa

    return pa.schema([(column, pa.string()) for column in COLUMNS])


class DocumentWriter:
    """Writes the documents of one split to `SPLIT.documents-00000.arrow` and, past `shard_bytes`, its successors."""

    def __init__(self, folder: Path, split: str, shard_bytes: int = SHARD_BYTES):
        self.folder, self.split, self.shard_bytes = folder, split, shard_bytes
        self.shards: list[str] = []
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_bytes = self._shard_size = 0
        self._open: ArrowWriter | None = None

    def __enter__(self) -> "DocumentWriter":
        self._next_shard()
        return self

    def add(self, batch: "pa.RecordBatch", size: int) -> None:
        """Append documents (text, source, id, domain) whose texts have `size` bytes together."""
        self._waiting.append(batch)
        self._waiting_bytes += size
        if self._waiting_bytes >= BATCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        assert self._open
        if self._shard_size and self._shard_size + self._waiting_bytes > self.shard_bytes:
            self._open.__exit__(None, None, None)
            self._next_shard()
        if self._waiting:
            for batch in pa.Table.from_batches(self._waiting).combine_chunks().to_batches():
                self._open.write_batch(batch)
        self._shard_size += self._waiting_bytes
        self._waiting, self._waiting_bytes = [], 0

    def _next_shard(self) -> None:
        name = f"{self.split}.documents-{len(self.shards):05d}.arrow"
        self._open = ArrowWriter(self.folder / name, document_schema()).__enter__()
        self._shard_size = 0
        self.shards.append(name)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._open
        try:
            if kind is None:
                self._flush()
        except BaseException:
            self._open.__exit__(*sys.exc_info())
            raise
        self._open.__exit__(kind, error, trace)


def document_shards(folder: Path, split: str) -> list[Path]:
    """The shards of a split in order; `ArtifactError` when there are none."""
    pattern = re.compile(rf"{re.escape(split)}\.documents-\d{{5}}\.arrow")
    names = sorted(path.name for path in folder.glob("*.arrow") if pattern.fullmatch(path.name))
    if not names:
        raise ArtifactError(f"{folder}: no documents of the split '{split}'; run the ingest stage again")
    return [folder / name for name in names]


@contextlib.contextmanager
def arrow_file(path: Path, mapped: bool = True) -> Iterator["pa.RecordBatchFileReader"]:
    """An Arrow IPC file; `ArtifactError` naming it when it is missing, cut off or no Arrow file.

    What is taken of a mapped file is no copy. Read through once, a file is better not mapped: its pages would all count
    as this process's memory.
    """
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) if mapped else pa.OSFile(str(path)) as file:
            yield pa.ipc.open_file(file)
    except FileNotFoundError:
        raise ArtifactError(f"{path}: missing; run the stage that makes it again") from None
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ArtifactError(f"{path}: damaged ({reason}); remove it and run again") from None


def read_batches(path: Path) -> Iterator["pa.RecordBatch"]:
    """The record batches of an Arrow IPC file, one in memory at a time."""
    with arrow_file(path, mapped=False) as file:
        for number in range(file.num_record_batches):
            batch = file.get_batch(number)
            batch.validate(full=True)
            yield batch


def read_documents(folder: Path, split: str) -> Iterator[Document]:
    """All documents of a split in the order of ingestion, one record batch in memory at a time."""
    for shard in document_shards(folder, split):
        for batch in read_batches(shard):
            yield from map(Document, *(batch.column(name).to_pylist() for name in COLUMNS))


def split_bytes(folder: Path, split: str) -> int:
    """The UTF-8 bytes of all texts of a split."""
    import pyarrow.compute as pc

    total = 0
    for shard in document_shards(folder, split):
        texts = (batch.column("text") for batch in read_batches(shard))
        total += sum(pc.sum(pc.binary_length(column)).as_py() or 0 for column in texts)
    return total


def sample_texts(folder: Path, split: str, max_bytes: int) -> Iterator[str]:
    """The texts of a split, or about `max_bytes` bytes of them chosen by hash, so that every source has its share."""
    share = max_bytes / max(1, split_bytes(folder, split))
    for document in read_documents(folder, split):
        if share >= 1 or choice_order(text_digest(document.text)) < share * 2**64:
            yield document.text
