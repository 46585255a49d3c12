"""What one append to a conversation's memory holds, as a record of its log.

T tokens that others follow, n entries, D model width
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from nano_think.core.errors import ArtifactError
from nano_think.memory.entries import Entries

FORMAT = 1
# The year 9999 (seconds since 1970): what lies beyond is no time that a calendar knows.
LATEST = 253_402_300_800


@dataclass(frozen=True, kw_only=True)
class Head:
    """The first record of a log: whose memory this is.

    model: digest of the model whose hidden states the keys are; tokenizer: sha256 of its tokenizer. generation: new
    each time the log is written anew, so that a reader notices. clock and documents: the next entry's time and the next
    document's number, lest either come back after an erasure.
    """

    model: str
    tokenizer: str
    width: int
    generation: str
    clock: int = 0
    documents: int = 0
    format: int = FORMAT

    def pack(self) -> bytes:
        return json.dumps({field.name: getattr(self, field.name) for field in fields(self)}).encode()

    @classmethod
    def unpack(cls, payload: bytes, path: Path) -> "Head":
        try:
            head = cls(**json.loads(payload))
            if any(type(getattr(head, name)) is not int for name in ("width", "clock", "documents", "format")):
                raise TypeError
        except (ValueError, TypeError):
            raise ArtifactError(f"{path}: its first record is not that of a memory; remove it") from None
        if head.format != FORMAT:
            raise ArtifactError(f"{path}: wanted format {FORMAT}, got {head.format}; read it with the version it is of")
        return head


@dataclass(frozen=True, kw_only=True)
class Turn:
    """T + 1 tokens in a row of one document, and the entries that are left of the first T.

    tokens (T + 1); offset (n): which tokens have an entry, increasing; weight (n) and key (n, D) of the entries. n
    is 0 where sleep has merged all into later turns. document: its number; first: the position of the first token in
    it; time: the time of the first token, each next one being one later; written: seconds since 1970, UTC.
    """

    tokens: np.ndarray
    offset: np.ndarray
    weight: np.ndarray
    key: np.ndarray
    document: int
    first: int
    time: int
    written: int

    def __len__(self) -> int:
        return len(self.offset)

    @property
    def end(self) -> int:
        """The time after its last entry."""
        return self.time + len(self.tokens) - 1

    def entries(self) -> Entries:
        return Entries.of(
            self.key,
            self.tokens[self.offset + 1],
            token=self.tokens[self.offset],
            document=np.full(len(self), self.document),
            position=self.first + self.offset,
            time=self.time + self.offset,
            weight=self.weight,
        )

    def pack(self) -> bytes:
        about = np.array([self.document, self.first, self.time, self.written], dtype=np.int64)
        columns: dict[str, np.ndarray[Any, Any]] = {"tokens": self.tokens.astype(np.int32), "about": about}
        columns |= {"offset": self.offset.astype(np.int32), "weight": self.weight.astype(np.float32)}
        return save(columns | {"key": np.ascontiguousarray(self.key, dtype=np.float32)})

    def _fits(self, width: int) -> bool:
        """Whether its columns fit together; also of no entries, whose tokens no offset points into."""
        entries, ids = len(self), (self.tokens, self.offset)
        shapes = self.offset.shape == self.weight.shape == (entries,) and self.key.shape == (entries, width)
        if not shapes or self.tokens.ndim != 1 or len(self.tokens) < 2 or any(one.dtype.kind != "i" for one in ids):
            return False
        if min(self.document, self.first, self.time) < 0 or not 0 <= self.written < LATEST:
            return False
        if not np.isfinite(self.weight).all() or (self.weight <= 0).any():
            return False
        return not entries or 0 <= self.offset.min() <= self.offset.max() < len(self.tokens) - 1

    @classmethod
    def unpack(cls, payload: bytes, width: int, path: Path) -> "Turn":
        try:
            columns = load(payload)
            document, first, time, written = columns.pop("about").tolist()
            turn = cls(**columns, document=document, first=first, time=time, written=written)
            # Also what a stranger may have written, with checksums that are right.
            if not turn._fits(width):
                raise ValueError("its columns do not fit together")
            return turn
        except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArtifactError(f"{path}: holds a record that is not a turn ({error}); remove the file") from None
