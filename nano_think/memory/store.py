"""A vector store: normalised hidden states as keys, the tokens that followed them as values.

S entries, Q queries, D model width, k neighbours
"""

import dataclasses
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from nano_think.core.errors import ArtifactError
from nano_think.core.files import sync
from nano_think.memory.entries import Entries, Growing
from nano_think.memory.index import Index, IndexKind, Lists
from nano_think.nn.weights import writing


class VectorStore:
    """Entries of one model, searched by inner product, each seen only by what is younger.

    `model` is the digest of the model whose hidden states the keys are. On the disk there are only the entries: the
    index is made again when they are loaded, so no index file is ever trusted.
    """

    def __init__(self, entries: Entries, model: str = "", *, kind: IndexKind | None = None, lists: Lists | None = None):
        self._columns, self.model, self.kind = Growing(entries.checked()), model, kind
        self.index = Index(entries.key, kind, lists)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def entries(self) -> Entries:
        """All entries, the oldest first."""
        return self._columns.entries

    def add(self, entries: Entries) -> None:
        """Append entries that are younger than all there are."""
        assert not len(self) or not len(entries) or self.entries.time[-1] < entries.time[0], "older than the newest"
        self._columns.append(entries.checked())
        if self.index.fits(len(entries)):
            self.index.add(entries.key)
        else:
            self.index = Index(self.entries.key, self.kind)

    def search(
        self, queries_QD: np.ndarray, k: int, before_Q: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest entries of each query: similarities (Q, k) and values (Q, k); as `find` otherwise.

        Where fewer are found, the similarity is -inf and the value -1 (never the last entry's).
        """
        similarity_Qk, entry_Qk = self.find(queries_QD, k, before_Q)
        return similarity_Qk, self.values_of(entry_Qk)

    def find(self, queries_QD: np.ndarray, k: int, before_Q: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest entries of each query: similarities (Q, k) and numbers of entries (Q, k), -1 for none.

        Query q is shown only entries with time < `before_Q`[q]; without it, all of them.
        """
        older_Q = None if before_Q is None else np.searchsorted(self.entries.time, before_Q, side="left")
        return self.index.search(queries_QD, k, older_Q)

    def values_of(self, entry_Qk: np.ndarray) -> np.ndarray:
        """The values of entries by number, -1 where there is none."""
        return self.pick(self.entries.value, entry_Qk)

    def weights_of(self, entry_Qk: np.ndarray) -> np.ndarray:
        """How many entries each stands for, by number, 0 where there is none."""
        return self.pick(self.entries.weight, entry_Qk, 0)

    @staticmethod
    def pick(column_S: np.ndarray, entry_Qk: np.ndarray, none: int = -1) -> np.ndarray:
        """The values of a column, (S), by number, `none` where there is none, (Q, k)."""
        if not len(column_S):
            return np.full(entry_Qk.shape, none, dtype=column_S.dtype)
        picked_Qk = column_S.take(entry_Qk)
        picked_Qk[entry_Qk < 0] = none
        return picked_Qk

    def shuffled_values(self, seed: int) -> np.ndarray:
        """The values of all entries dealt out anew, (S): the control that shows whether values matter."""
        return np.random.default_rng(seed).permutation(self.entries.value)

    def save(self, path: Path) -> None:
        with writing(path):
            columns = {field.name: getattr(self.entries, field.name) for field in dataclasses.fields(Entries)}
            save_file(columns, path, metadata={"model": self.model})
            sync(path)

    @classmethod
    def load(cls, path: Path, model: str = "") -> "VectorStore":
        """The store in a file; `ArtifactError` when it is missing, damaged or not of `model`, if given."""
        try:
            with safe_open(path, framework="numpy") as file:
                found = (file.metadata() or {}).get("model", "")
                columns = {field.name: file.get_tensor(field.name) for field in dataclasses.fields(Entries)}
        except FileNotFoundError:
            raise ArtifactError(f"{path}: missing; run the pipeline again to make it") from None
        except (SafetensorError, KeyError, OSError) as error:
            raise ArtifactError(f"{path}: damaged ({error}); remove it and run again") from None
        if model and found != model:
            raise ArtifactError(f"{path}: a memory of model {found[:12]}, wanted {model[:12]}; run the pipeline again")
        return cls(Entries(**columns), found)
