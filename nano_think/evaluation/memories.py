"""What a memory adds: readings scored again with neighbours mixed in.

Two memories, two rows: *persistent*, built beforehand from the routing split; *scratch*, one document's own earlier
tokens, dropped at its end. Each has a control whose values are shuffled: a gain that survives it is no memory. Both are
read a second way too, where that was trained (`evaluation/slots.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nano_think.evaluation.reading import Reading
from nano_think.evaluation.scorers import CALIBRATED
from nano_think.memory.read import NEIGHBOURS, Gate, Neighbours, earlier_in_document, fit_gate, mixed_nll, to_key
from nano_think.memory.scratch import ScratchReader
from nano_think.memory.slots import SlotReader, Slots, Source
from nano_think.memory.store import VectorStore

BLOCK = 512


@dataclass(frozen=True, kw_only=True)
class Memories:
    """The persistent store and the gates of both memories, fitted on the validation split; a trained way to read the
    scratch memory, and a trained second way to read both, if there are any.
    """

    store: VectorStore
    persistent: Gate = Gate()
    scratch: Gate = Gate()
    reader: ScratchReader | None = None
    slots: SlotReader | None = None


# What the entries of each source hold, and a control that deals out other values, (S) each.
Values = Mapping[Source, tuple[Tensor, Tensor]]


def find(store: VectorStore, reading: Reading, before_N: np.ndarray | None = None) -> Slots:
    """The nearest entries of a store for every token of a reading, all of them or those older than a time."""
    similarity, entry = store.find(to_key(reading.hidden).numpy(), NEIGHBOURS, before_N)
    return Slots(torch.from_numpy(similarity), torch.from_numpy(entry))


def find_in_documents(reading: Reading) -> Slots:
    """The nearest of the earlier tokens of its own document, by number in the reading, for every token of it."""
    numbers_N = torch.arange(len(reading.target))
    parts = [Slots(torch.zeros(0, NEIGHBOURS), torch.zeros(0, NEIGHBOURS, dtype=torch.long))]
    for index in range(len(reading.documents)):
        tokens = reading.of(index)
        keys, numbers = to_key(reading.hidden[tokens]), numbers_N[tokens]
        for first in range(0, len(keys), BLOCK):
            found = earlier_in_document(keys[first : first + BLOCK], keys, numbers, first, NEIGHBOURS)
            parts.append(Slots(_widen(found.similarity, -torch.inf), _widen(found.value, -1)))
    return Slots.join(parts)


def _widen(part_Tk: Tensor, fill: float) -> Tensor:
    return torch.nn.functional.pad(part_Tk, (0, NEIGHBOURS - part_Tk.shape[1]), value=fill)


def neighbours(slots: Slots, value_S: Tensor) -> Neighbours:
    """What the entries that were found hold."""
    value_Tk = value_S[slots.entry] if len(value_S) else slots.entry
    return Neighbours(similarity=slots.similarity, value=torch.where(slots.entry >= 0, value_Tk, -1))


def search(store: VectorStore, reading: Reading) -> Neighbours:
    """Neighbours in a store of every token of a reading; all entries are older than all queries."""
    return neighbours(find(store, reading), torch.from_numpy(store.entries.value))


def search_documents(reading: Reading) -> Neighbours:
    """Neighbours of every token among the earlier tokens of its own document."""
    return neighbours(find_in_documents(reading), reading.target)


def values_of_others(reading: Reading, else_S: Tensor, seed: int) -> Tensor:
    """For every token a value of another document of the reading, drawn anew, (N); of `else_S`, if there are any, where
    the others together are shorter than its own: few values dealt often would be a control too easily beaten.

    A document that were dealt its own values would be shown what it says later.
    """
    draw, target_N = np.random.default_rng(seed), reading.target
    count_M = torch.bincount(reading.document, minlength=len(reading.documents))
    first_N, count_N = (count_M.cumsum(0) - count_M)[reading.document], count_M[reading.document]
    others_N, share_N = len(target_N) - count_N, torch.from_numpy(draw.random(len(target_N)))
    place_N = (share_N * others_N).long()
    place_N = torch.where(place_N >= first_N, place_N + count_N, place_N).clamp(max=len(target_N) - 1)
    dealt_N = torch.where(others_N > 0, target_N[place_N], 0)
    if not len(else_S):
        return dealt_N
    return torch.where(others_N >= count_N, dealt_N, else_S[(share_N * len(else_S)).long()])


def look_up(reading: Reading, store: VectorStore) -> dict[Source, Slots]:
    """What each memory shows to every token of a reading. Controls have the same keys, so one search serves all."""
    return {"persistent": find(store, reading), "scratch": find_in_documents(reading)}


def values_of(reading: Reading, store: VectorStore, control_S: np.ndarray, seed: int) -> Values:
    """What the entries of each memory hold, and a control: of the store `control_S`, its values dealt out anew, and of
    a document's own tokens the values of others.
    """
    kept, control = torch.from_numpy(store.entries.value), torch.from_numpy(control_S)
    return {"persistent": (kept, control), "scratch": (reading.target, values_of_others(reading, kept, seed))}


def score_memories(
    reading: Reading, memories: Memories, found: dict[Source, Slots], values: Values
) -> dict[str, Tensor]:
    """Nats of every token with each memory and with its shuffled control, by column name; where the mixture is
    calibrated, also with the same gates on top of that.
    """
    scored = {}
    for source, slots in found.items():
        gate = memories.persistent if source == "persistent" else memories.scratch
        for ending, value_S in zip(("", "_shuffled"), values[source], strict=True):
            shown = neighbours(slots, value_S)
            for prefix in ("", CALIBRATED):
                if f"{prefix}mixture" in reading.nats:
                    nats_N = reading.nats[f"{prefix}mixture"]
                    scored[f"{prefix}{source}{ending}"] = mixed_nll(nats_N, reading.target, shown, gate)
    return scored


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
