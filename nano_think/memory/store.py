"""A vector store: normalised hidden states as keys, the tokens that followed them as values.

S entries, Q queries, D model width, k neighbours
"""

from pathlib import Path

import faiss
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from nano_think.core.errors import ArtifactError
from nano_think.core.files import sync
from nano_think.nn.weights import writing

FLAT_UP_TO = 65_536
PROBES = 8


class VectorStore:
    """Keys (S, D) of length 1 with one value each, searched by inner product with FAISS.

    Exact (`IndexFlatIP`) up to 65,536 entries, inverted lists (`IndexIVFFlat`) beyond. On the disk there are only the
    arrays: the index is made again when they are loaded, so no index file is ever trusted.
    """

    def __init__(self, keys_SD: np.ndarray, values_S: np.ndarray):
        assert keys_SD.ndim == 2 and len(keys_SD) == len(values_S), f"{keys_SD.shape} keys, {values_S.shape} values"
        self.keys = np.ascontiguousarray(keys_SD, dtype=np.float32)
        self.values = np.ascontiguousarray(values_S, dtype=np.int64)
        if not np.isfinite(self.keys).all():
            raise ArtifactError("memory keys hold numbers that are not finite; train the model again")
        self.index = self._build()

    def __len__(self) -> int:
        return len(self.values)

    def _build(self) -> faiss.Index:
        width = self.keys.shape[1]
        index: faiss.IndexFlatIP | faiss.IndexIVFFlat
        if len(self) <= FLAT_UP_TO:
            index = faiss.IndexFlatIP(width)
        else:
            lists = int(4 * len(self) ** 0.5)
            index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, lists, faiss.METRIC_INNER_PRODUCT)
            index.nprobe = PROBES
            index.train(self.keys[:: max(1, len(self) // (40 * lists))])
        index.add(self.keys)
        return index

    def search(self, queries_QD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest entries of each query: similarities (Q, k) and values (Q, k).

        Where fewer are found, the similarity is -inf and the value -1 (never the last entry's).
        """
        similarity_Qk, entry_Qk = self.find(queries_QD, k)
        return similarity_Qk, self.values_of(entry_Qk)

    def find(self, queries_QD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest entries of each query: similarities (Q, k) and numbers of entries (Q, k), -1 for none."""
        if not len(self):
            empty = np.full((len(queries_QD), k), -np.inf, dtype=np.float32)
            return empty, np.full(empty.shape, -1, dtype=np.int64)
        similarity_Qk, entry_Qk = self.index.search(np.ascontiguousarray(queries_QD, dtype=np.float32), k)
        return np.where(entry_Qk < 0, -np.inf, similarity_Qk).astype(np.float32), entry_Qk

    def values_of(self, entry_Qk: np.ndarray) -> np.ndarray:
        """The values of entries by number, -1 where there is none."""
        if not len(self):
            return np.full(entry_Qk.shape, -1, dtype=np.int64)
        return np.where(entry_Qk < 0, -1, self.values[entry_Qk])

    def shuffled(self, seed: int) -> "VectorStore":
        """The same keys with their values dealt out anew: the control that shows whether values matter."""
        return VectorStore(self.keys, np.random.default_rng(seed).permutation(self.values))

    def save(self, path: Path) -> None:
        with writing(path):
            save_file({"keys": self.keys, "values": self.values}, path)
            sync(path)

    @classmethod
    def load(cls, path: Path) -> "VectorStore":
        try:
            arrays = load_file(path)
            return cls(arrays["keys"], arrays["values"])
        except FileNotFoundError:
            raise ArtifactError(f"{path}: missing; run the pipeline again to make it") from None
        except (SafetensorError, KeyError, OSError) as error:
            raise ArtifactError(f"{path}: damaged ({error}); remove it and run again") from None
