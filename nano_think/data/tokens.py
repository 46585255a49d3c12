"""Documents -> one long row of token ids per split, in Arrow files that are read by memory map without a copy."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nano_think.core.errors import ArtifactError, storage
from nano_think.data.clean import SPLITS
from nano_think.data.document import Document
from nano_think.data.shards import BATCH_BYTES, ArrowWriter, arrow_file, read_documents
from nano_think.data.tokenizer import Tokenizer

if TYPE_CHECKING:
    import pyarrow as pa

COUNTS = ("tokens", "documents", "bytes")


def write_tokens(documents: Path, tokenizer: Tokenizer, out: Path, threads: int = 1) -> dict[str, Any]:
    """Encode every split of `documents`; the result does not depend on `threads`.

    Writes `out/SPLIT.tokens.arrow` (column tokens: uint16, or uint32 for vocabularies over 65,535; one record batch)
    and `out/SPLIT.documents.arrow` (offset of the start token, tokens with it, bytes of UTF-8, source, id, domain).
    Returns {"vocab_size", "dtype", "splits": {split: {tokens, documents, bytes, domains: {domain: the same three}}}}.
    """
    with storage(out):
        out.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(threads) as pool:
            splits = {split: _write_split(documents, split, tokenizer, out, pool) for split in SPLITS}
    return {"vocab_size": tokenizer.vocab_size, "dtype": token_type(tokenizer.vocab_size).name, "splits": splits}


def token_type(vocab_size: int) -> np.dtype:
    """The narrowest of uint16 and uint32 that holds every id."""
    return np.dtype(np.uint32 if vocab_size > 65535 else np.uint16)


def _document_schema() -> "pa.Schema":
    import pyarrow as pa

    numbers = [("offset", pa.int64()), ("tokens", pa.int32()), ("bytes", pa.int32())]
    return pa.schema([*numbers, *((name, pa.string()) for name in ("source", "id", "domain"))])


def _write_split(
    documents: Path, split: str, tokenizer: Tokenizer, out: Path, pool: ThreadPoolExecutor
) -> dict[str, Any]:
    total = dict.fromkeys(COUNTS, 0)
    domains: dict[str, dict[str, int]] = {}
    ids_type = token_type(tokenizer.vocab_size)
    spool = out / f".{split}.tokens.spool"
    try:
        with (
            spool.open("wb") as raw,
            ArrowWriter(out / f"{split}.documents.arrow", _document_schema()) as table,
        ):
            for batch in _batches(read_documents(documents, split)):
                rows = list(pool.map(partial(_encoded, tokenizer, ids_type), batch))
                # Not tofile: its error on a full disk does not say so.
                raw.write(np.concatenate([ids for ids, _ in rows]).data)
                table.write(_table_rows(batch, rows, total["tokens"]))
                for document, (ids, size) in zip(batch, rows, strict=True):
                    for count in (total, domains.setdefault(document.domain, dict.fromkeys(COUNTS, 0))):
                        _add(count, tokens=len(ids), documents=1, bytes=size)
        _write_ids(spool, out / f"{split}.tokens.arrow", ids_type)
    finally:
        spool.unlink(missing_ok=True)
    return total | {"domains": dict(sorted(domains.items()))}


def _add(count: dict[str, int], **more: int) -> None:
    for name, value in more.items():
        count[name] += value


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    batch, size = [], 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _encoded(tokenizer: Tokenizer, ids_type: np.dtype, document: Document) -> tuple[np.ndarray, int]:
    ids = tokenizer.encode_array(document.text)
    return np.concatenate([[tokenizer.bos], ids]).astype(ids_type), len(document.text.encode())


def _table_rows(batch: list[Document], rows: list[tuple[np.ndarray, int]], start: int) -> dict[str, Any]:
    lengths = np.array([len(ids) for ids, _ in rows], dtype=np.int32)
    return {
        "offset": start + np.cumsum(lengths, dtype=np.int64) - lengths,
        "tokens": lengths,
        "bytes": np.array([size for _, size in rows], dtype=np.int32),
        **{name: [getattr(document, name) for document in batch] for name in ("source", "id", "domain")},
    }


def _write_ids(spool: Path, path: Path, ids_type: np.dtype) -> None:
    """One record batch, so that a reader has one array: its length is known only now. The spool is mapped, not read."""
    import pyarrow as pa

    ids = np.memmap(spool, ids_type, mode="r") if spool.stat().st_size else np.empty(0, ids_type)
    with ArrowWriter(path, pa.schema([("tokens", pa.from_numpy_dtype(ids_type))])) as file:
        file.write({"tokens": pa.array(ids)})


@dataclass(frozen=True, slots=True)
class TokenSet:
    """One split: all its tokens in a row, memory-mapped, and the table of its documents."""

    tokens: np.ndarray
    """(N,) uint16 or uint32, read-only; each document starts with the start token."""
    documents: "pa.Table"
    """offset, tokens (with the start token), bytes, source, id, domain; in the order of the tokens."""

    @classmethod
    def open(cls, folder: Path, split: str) -> "TokenSet":
        """Raises `ArtifactError` for files that are missing, cut off, or do not fit together."""
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
