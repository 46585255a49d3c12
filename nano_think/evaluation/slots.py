"""Memories that are read as slots: trained on the text that the store is made of, kept where they help, and scored.

N tokens of a reading, S entries, D model width
"""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from nano_think.evaluation.calibration import Calibration
from nano_think.evaluation.memories import Memories, Values, find, find_in_documents, look_up
from nano_think.evaluation.reading import Reading
from nano_think.evaluation.scorers import CALIBRATED
from nano_think.heads.language import LanguageHead
from nano_think.memory.read import to_key
from nano_think.memory.slots import BLOCK, Lesson, SlotReader, Slots, Source, train_slots
from nano_think.memory.store import VectorStore

ENDING = "_slots"
"""What the columns of memories that are read as slots end with, before that of a control."""


def fit_slots(
    head: LanguageHead, store: VectorStore, written: Sequence[Reading], held_out: Sequence[Reading]
) -> SlotReader:
    """A reader trained on what the store was written from, in that order: each token is shown entries of earlier
    documents, as a new text is, or earlier tokens of its own. A source that does not help held-out text is shut.
    """
    device, key_SD = head.table.device, torch.from_numpy(store.entries.key)
    lesson = Lesson(
        torch.cat([reading.hidden for reading in written]).to(device),
        torch.cat([reading.target for reading in written]).to(device),
        {"persistent": _of_earlier_documents(store, written).to(device), "scratch": _of_documents(written).to(device)},
    )
    # What was read in inference mode can be trained on as a copy alone.
    lesson = Lesson(lesson.hidden.clone(), lesson.target.clone(), lesson.slots)
    value_S = torch.from_numpy(store.entries.value).to(device)
    reader = train_slots(head, key_SD.to(device), value_S, lesson)
    for place, source in enumerate(lesson.slots):
        if not _helps(reader, head, store, held_out, source):
            reader.gate[place] = 0.0
    return reader.cpu()


def _of_earlier_documents(store: VectorStore, written: Sequence[Reading]) -> Slots:
    document_S = store.entries.document
    before_S = store.entries.time[np.searchsorted(document_S, document_S, side="left")]
    ends = list(accumulate(len(reading.target) for reading in written))
    return Slots.join([
        find(store, reading, before_S[end - len(reading.target) : end])
        for reading, end in zip(written, ends, strict=True)
    ])  # fmt: skip


def _of_documents(written: Sequence[Reading]) -> Slots:
    """Earlier tokens of the same document, which are entries too: by the numbers that these have."""
    firsts = accumulate((len(reading.target) for reading in written), initial=0)
    found = [(find_in_documents(reading), first) for reading, first in zip(written, firsts, strict=False)]
    return Slots.join([
        Slots(slots.similarity, torch.where(slots.entry >= 0, slots.entry + first, -1)) for slots, first in found
    ])  # fmt: skip


def _helps(
    reader: SlotReader, head: LanguageHead, store: VectorStore, held_out: Sequence[Reading], source: Source
) -> bool:
    before = after = 0.0
    for reading in held_out:
        key_SD, value_S = entries_of(reading, store, source)
        slots = look_up(reading, store)[source]
        before += float(reading.nats["mixture"].double().sum())
        told_ND = read_slots(reader, head, reading.hidden, key_SD, value_S, slots, source)
        after += float(_nats(head, told_ND, reading.target).double().sum())
    return after < before


def entries_of(reading: Reading, store: VectorStore, source: Source) -> tuple[Tensor, Tensor]:
    """Keys (S, D) and values (S) of the entries of a source."""
    if source == "persistent":
        return torch.from_numpy(store.entries.key), torch.from_numpy(store.entries.value)
    return to_key(reading.hidden), reading.target


@torch.no_grad()
def read_slots(
    reader: SlotReader, head: LanguageHead, hidden_ND: Tensor, key_SD: Tensor, value_S: Tensor, slots: Slots,
    source: Source,
) -> Tensor:  # fmt: skip
    """The hidden states with what is remembered, (N, D), a block of tokens at a time, on the device of the head."""
    device = head.table.device
    reader.to(device)
    latent_SD, found = reader.latents(key_SD.to(device), head.embed(value_S.to(device))), [hidden_ND[:0].to(device)]
    for first in range(0, len(hidden_ND), BLOCK):
        rows = slice(first, first + BLOCK)
        found.append(reader(hidden_ND[rows].to(device), latent_SD, slots.at(rows).to(device), source))
    return torch.cat(found)


@torch.no_grad()
def _nats(head: LanguageHead, hidden_ND: Tensor, target_N: Tensor, calibration: Calibration | None = None) -> Tensor:
    target_1N = target_N[None].to(hidden_ND.device)
    told_1N = calibration.nll(head, hidden_ND[None], target_1N) if calibration else head.nll(hidden_ND[None], target_1N)
    return told_1N[0].cpu()


def score_slots(
    reading: Reading, memories: Memories, found: dict[Source, Slots], values: Values, head: LanguageHead,
    calibration: Calibration | None,
) -> dict[str, Tensor]:  # fmt: skip
    """Nats of every token with each memory read as slots and with its shuffled control, by column name; where the
    mixture is calibrated, also by its calibration. What is shown nothing, or shut, keeps the mixture's own, bit for
    bit.
    """
    assert memories.slots is not None, "no reader of slots was trained"
    scored, calibrations = {}, {"": None, CALIBRATED: calibration} if calibration else {"": None}
    for place, (source, slots) in enumerate(found.items()):
        key_SD, shut = entries_of(reading, memories.store, source)[0], not memories.slots.gate[place].any()
        some_N = (slots.entry >= 0).any(dim=-1)
        for ending, value_S in zip(("", "_shuffled"), values[source], strict=True):
            told_ND = None if shut else read_slots(
                memories.slots, head, reading.hidden, key_SD, value_S, slots, source
            )  # fmt: skip
            for prefix, one in calibrations.items():
                own_N = reading.nats[f"{prefix}mixture"]
                nats_N = own_N if told_ND is None else _nats(head, told_ND, reading.target, one)
                scored[f"{prefix}{source}{ENDING}{ending}"] = torch.where(some_N, nats_N, own_N)
    return scored
