"""What a memory holds: columns of entries in the order of time.

S entries, D model width
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from nano_think.core.errors import ArtifactError

UNIT = 1e-3


@dataclass(frozen=True, kw_only=True)
class Entries:
    """S entries, the oldest first.

    key (S, D) fp32 of length 1: what the model thought behind a token, and with it the entry's hidden state, since
    whatever reads a hidden state normalises it first. value (S): the id of the token that came next; token (S): the id
    of the token itself. document (S) and position (S): where it stood. time (S): strictly increasing. weight (S) fp32:
    how many entries it stands for.
    """

    key: np.ndarray
    value: np.ndarray
    token: np.ndarray
    document: np.ndarray
    position: np.ndarray
    time: np.ndarray
    weight: np.ndarray

    def __post_init__(self) -> None:
        lengths = {field.name: len(getattr(self, field.name)) for field in fields(self)}
        assert self.key.ndim == 2 and len(set(lengths.values())) == 1, f"{self.key.shape} keys, columns of {lengths}"

    def __len__(self) -> int:
        return len(self.value)

    @property
    def width(self) -> int:
        return self.key.shape[1]

    def at(self, chosen: np.ndarray | slice) -> "Entries":
        """Some of the entries: a slice, a mask or increasing numbers."""
        return Entries(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})

    def checked(self) -> "Entries":
        """Itself; `ArtifactError` when a key is not finite or not of length 1, or the times do not increase."""
        if not np.isfinite(self.key).all():
            raise ArtifactError("memory keys hold numbers that are not finite; train the model again")
        if len(self) and np.abs(np.linalg.norm(self.key, axis=1) - 1).max() > UNIT:
            raise ArtifactError("memory keys are not of length 1; normalise them with memory.read.to_key")
        if (np.diff(self.time) <= 0).any():
            raise ArtifactError("memory entries are not in the order of time; write them again, the oldest first")
        return self

    @classmethod
    def of(cls, key_SD: np.ndarray, value_S: np.ndarray, **columns: np.ndarray) -> "Entries":
        """Entries of keys and values; columns that are not given count up (time, position), are 1 (weight) or 0."""
        S = len(value_S)
        plain = {"token": np.zeros(S), "document": np.zeros(S), "position": np.arange(S), "time": np.arange(S)}
        whole = {name: np.ascontiguousarray(columns.get(name, plain[name]), dtype=np.int64) for name in plain}
        key_SD = np.ascontiguousarray(key_SD, dtype=np.float32)
        weight_S = np.ascontiguousarray(columns.get("weight", np.ones(S)), dtype=np.float32)
        return cls(key=key_SD, value=np.ascontiguousarray(value_S, dtype=np.int64), weight=weight_S, **whole)

    @classmethod
    def none(cls, width: int) -> "Entries":
        return cls.of(np.zeros((0, width), dtype=np.float32), np.zeros(0))

    def wider(self, rows: int) -> "Entries":
        """The same entries at the head of arrays of `rows` rows; the rest is zeros."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        wider = {name: np.zeros((rows, *column.shape[1:]), dtype=column.dtype) for name, column in columns.items()}
        for name, column in columns.items():
            wider[name][: len(self)] = column
        return Entries(**wider)

    @classmethod
    def join(cls, parts: Sequence["Entries"]) -> "Entries":
        """The entries of all parts, in order; there is at least one part."""
        return cls(**{field.name: np.concatenate([getattr(p, field.name) for p in parts]) for field in fields(cls)})


class Growing:
    """Entries that are appended to, in arrays that double when they are full."""

    def __init__(self, entries: Entries):
        self._room = self._entries = entries

    @property
    def entries(self) -> Entries:
        """All entries, without a copy; appending does not change what was returned."""
        return self._entries

    def append(self, entries: Entries) -> None:
        first, end = len(self._entries), len(self._entries) + len(entries)
        if end > len(self._room):
            self._room = self._entries.wider(max(end, 2 * first))
        for field in fields(Entries):
            getattr(self._room, field.name)[first:end] = getattr(entries, field.name)
        self._entries = self._room.at(slice(end))
