"""What a memory adds: readings scored again with neighbours mixed in.

Two memories, two rows: *persistent*, built beforehand from the routing split; *scratch*, one document's own earlier
tokens, dropped at its end. Each has a control whose values are shuffled: a gain that survives it is no memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nano_think.evaluation.reading import Reading
from nano_think.memory.read import NEIGHBOURS, Gate, Neighbours, earlier_in_document, fit_gate, mixed_nll, to_key
from nano_think.memory.scratch import ScratchReader
from nano_think.memory.store import VectorStore

BLOCK = 512


@dataclass(frozen=True, kw_only=True)
class Memories:
    """The persistent store and the gates of both memories, fitted on the validation split; and a trained way to read
    the scratch memory, if there is one.
    """

    store: VectorStore
    persistent: Gate = Gate()
    scratch: Gate = Gate()
    reader: ScratchReader | None = None


def search(store: VectorStore, reading: Reading) -> Neighbours:
    """Neighbours in a store of every token of a reading; all entries are older than all queries."""
    similarity, value = store.search(to_key(reading.hidden).numpy(), NEIGHBOURS)
    return Neighbours(similarity=torch.from_numpy(similarity), value=torch.from_numpy(value))


def search_documents(reading: Reading, shuffle_seed: int | None = None) -> Neighbours:
    """Neighbours of every token among the earlier tokens of its own document.

    `shuffle_seed` deals the values anew over all documents of the reading: a document then remembers others' words.
    """
    values_N = reading.target
    if shuffle_seed is not None:
        values_N = values_N[torch.from_numpy(np.random.default_rng(shuffle_seed).permutation(len(values_N)))]
    parts = [Neighbours(similarity=torch.zeros(0, NEIGHBOURS), value=torch.zeros(0, NEIGHBOURS, dtype=torch.long))]
    for index in range(len(reading.documents)):
        tokens = reading.of(index)
        keys, values = to_key(reading.hidden[tokens]), values_N[tokens]
        for first in range(0, len(keys), BLOCK):
            found = earlier_in_document(keys[first : first + BLOCK], keys, values, first, NEIGHBOURS)
            parts.append(Neighbours(similarity=_widen(found.similarity, -torch.inf), value=_widen(found.value, -1)))
    return Neighbours.join(parts)


def _widen(part_Tk: Tensor, fill: float) -> Tensor:
    return torch.nn.functional.pad(part_Tk, (0, NEIGHBOURS - part_Tk.shape[1]), value=fill)


def score_memories(reading: Reading, memories: Memories, control_S: np.ndarray, seed: int) -> dict[str, Tensor]:
    """Nats of every token with each memory and with its shuffled control, by column name; `control_S` are the values
    of the store's entries, shuffled.
    """
    nats, target = reading.nats["mixture"], reading.target
    # The control has the same keys, so one search serves both.
    similarity, entry = memories.store.find(to_key(reading.hidden).numpy(), NEIGHBOURS)
    persistent, shuffled = (
        Neighbours(similarity=torch.from_numpy(similarity), value=torch.from_numpy(memories.store.pick(value_S, entry)))
        for value_S in (memories.store.entries.value, control_S)
    )
    return {
        "persistent": mixed_nll(nats, target, persistent, memories.persistent),
        "persistent_shuffled": mixed_nll(nats, target, shuffled, memories.persistent),
        "scratch": mixed_nll(nats, target, search_documents(reading), memories.scratch),
        "scratch_shuffled": mixed_nll(nats, target, search_documents(reading, seed), memories.scratch),
    }


def fit_memories(store: VectorStore, readings: Sequence[Reading]) -> Memories:
    """Memories whose gates have the least loss on readings of the validation split."""
    nats = torch.cat([reading.nats["mixture"] for reading in readings])
    target = torch.cat([reading.target for reading in readings])
    persistent = Neighbours.join([search(store, reading) for reading in readings])
    scratch = Neighbours.join([search_documents(reading) for reading in readings])
    return Memories(
        store=store,
        persistent=fit_gate(nats, target, persistent),
        scratch=fit_gate(nats, target, scratch),
    )
