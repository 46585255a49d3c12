"""Memories read as slots over documents: trained, kept where they help, scored beside the other way."""

import dataclasses

import numpy as np
import pytest
import torch

from nano_think.evaluation import memories, reading, slots
from nano_think.evaluation.bits_per_byte import score
from nano_think.evaluation.calibration import Calibration
from nano_think.evaluation.memories import Memories
from nano_think.evaluation.reading import Document, read
from nano_think.evaluation.scorers import Controls
from nano_think.memory.entries import Entries
from nano_think.memory.read import to_key
from nano_think.memory.slots import SlotReader
from nano_think.memory.store import VectorStore
from nano_think.stages.memory import to_entries
from tests.evaluation.test_reading import make_documents, make_memories, read_all
from tests.tiny import START, WIDTH, tiny_mixture


def with_slots() -> Memories:
    return dataclasses.replace(make_memories(0.3), slots=make_slots())


def make_slots(seed: int = 0) -> SlotReader:
    torch.manual_seed(seed)
    reader = SlotReader(WIDTH)
    torch.nn.init.normal_(reader.gate)
    return reader.requires_grad_(False)


def test_slots_are_read_by_hand_plain_and_calibrated():
    """Every column from the reader's own parts; one that is shut or shown nothing is the mixture's, bit for bit."""
    model, documents, kept = tiny_mixture(), make_documents(), with_slots()
    controls = Controls(calibrations={"mixture": Calibration(scale=1.3, bias=0.8)})
    frame = score(model, documents, 16, kept, seed=4, controls=controls)
    (one,) = read_all(model, documents, 16)
    store, control = kept.store, torch.from_numpy(kept.store.shuffled_values(4))
    found = memories.look_up(one, store)
    for source, values in memories.values_of(one, store, control.numpy(), 4).items():
        key_SD = torch.from_numpy(store.entries.key) if source == "persistent" else to_key(one.hidden)
        for ending, value_S in zip(("", "_shuffled"), values, strict=True):
            latent_SD = kept.slots.latents(key_SD, model.head.embed(value_S))
            told_ND = kept.slots(one.hidden, latent_SD, found[source], source)
            for prefix, calibration in (("", Calibration()), ("calibrated.", controls.calibrations["mixture"])):
                nats_N = calibration.nll(model.head, told_ND[None], one.target[None])[0]
                wanted = torch.bincount(one.document, nats_N, minlength=len(documents))
                np.testing.assert_allclose(frame[f"{prefix}{source}_slots{ending}"], wanted, rtol=1e-4)
                assert not np.allclose(wanted, frame[f"{prefix}mixture"])
    kept.slots.gate.zero_()
    shut = score(model, documents, 16, kept, controls=controls)
    assert all((shut[f"{source}_slots"] == shut["mixture"]).all() for source in ("persistent", "scratch"))
    empty = dataclasses.replace(kept, store=VectorStore(Entries.none(WIDTH)), slots=make_slots())
    frame = score(model, documents, 16, empty, controls=controls)
    assert (frame["persistent_slots"] == frame["mixture"]).all()
    assert (frame["calibrated.persistent_slots_shuffled"] == frame["calibrated.mixture"]).all()


def test_slots_do_not_depend_on_blocks_or_grouping(monkeypatch: pytest.MonkeyPatch):
    model, documents, kept = tiny_mixture(), make_documents(), with_slots()
    frame = score(model, documents, 16, kept)
    monkeypatch.setattr(reading, "GROUP_TOKENS", 20)
    monkeypatch.setattr(slots, "BLOCK", 5)
    other = score(model, documents[::-1], 16, kept)[::-1]
    for name in ("persistent_slots", "scratch_slots"):
        np.testing.assert_allclose(frame[name], other[name], rtol=1e-4)


def test_a_mixture_of_distributions_has_no_hidden_state_to_join():
    model = tiny_mixture("expert probability")
    frame = score(model, make_documents(), 16, with_slots())
    assert "persistent" in frame and "persistent_slots" not in frame


def test_fitted_slots_are_shut_where_held_out_text_is_not_helped(monkeypatch: pytest.MonkeyPatch):
    """They learn from entries of earlier documents and of earlier tokens; what they were shown is told here."""
    model, lessons = tiny_mixture(), []

    def train(head, key_SD, value_S, lesson):
        lessons.append(lesson)
        return make_slots()

    monkeypatch.setattr(slots, "train_slots", train)
    monkeypatch.setattr(reading, "GROUP_TOKENS", 30)
    written = list(read(model, make_documents((20, 15, 30)), 16))
    store = VectorStore(to_entries(written))
    assert len(written) > 1
    opened = {True: (True, True), False: (False, False)}
    for helps, wanted in opened.items():
        monkeypatch.setattr(slots, "_helps", lambda *_, helps=helps: helps)
        found = slots.fit_slots(model.head, store, written, written)
        assert tuple(bool(gate.any()) for gate in found.gate) == wanted
    document_S, number_S = torch.from_numpy(store.entries.document), torch.arange(len(store))
    for source, shown in lessons[0].slots.items():
        for t, entry in enumerate(shown.entry.tolist()):
            some = [e for e in entry if e >= 0]
            if source == "persistent":
                assert all(document_S[e] < document_S[t] for e in some) and bool(some) == bool(document_S[t])
            else:
                same = number_S[(document_S == document_S[t]) & (number_S < t)]
                assert all(e in same for e in some) and len(some) == min(len(same), memories.NEIGHBOURS)


def test_whether_slots_help_is_held_out_texts_to_say():
    """Slots that say what comes help; the same with other words do not."""
    model = tiny_mixture()
    phrase = np.random.default_rng(0).permutation(START)
    (one,) = read_all(model, [Document(np.concatenate([[START], np.tile(phrase, 4)]), 100, "made")], window=START)
    reader = make_slots()
    reader.gate.fill_(0.5)
    store = make_memories(0.3).store
    assert slots._helps(reader, model.head, store, [one], "scratch")
    reader.gate.neg_()
    assert not slots._helps(reader, model.head, store, [one], "scratch")
