"""Reading documents: every token once, its context its own, whatever is batched with it."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from nano_think.core.errors import InputError
from nano_think.evaluation import memories, reading
from nano_think.evaluation.bits_per_byte import bits_per_byte, score, summarise
from nano_think.evaluation.memories import Memories, fit_memories, search, search_documents
from nano_think.evaluation.reading import Document, Reading, read
from nano_think.evaluation.scratch import beyond_window, fit_reader
from nano_think.experts import EXPERTS
from nano_think.memory.entries import Entries
from nano_think.memory.read import Gate
from nano_think.memory.scratch import ScratchReader
from nano_think.memory.store import VectorStore
from nano_think.models.think import NanoThink
from tests.tiny import START, VOCABULARY, WIDTH, draw_tokens, tiny_mixture

LENGTHS = (1, 2, 9, 30, 16, 17, 5, 33, 1)


def make_documents(lengths: tuple[int, ...] = LENGTHS) -> list[Document]:
    """Documents of so many tokens, the start token among them."""
    return [
        Document(draw_tokens(1, length, seed=length + place)[0].numpy(), 3 * length, "even" if place % 2 else "odd")
        for place, length in enumerate(lengths)
    ]


def read_all(model: NanoThink, documents: list[Document], window: int = 16) -> list[Reading]:
    return list(read(model, documents, window))


def joined(readings: list[Reading], name: str) -> torch.Tensor:
    return torch.cat([one.nats[name] for one in readings])


@pytest.mark.parametrize("window", [1, 7, 16, 100])
def test_every_token_is_scored_once_and_the_start_token_never(window: int):
    documents = make_documents()
    (one,) = read_all(tiny_mixture(), documents, window)
    assert one.target.tolist() == [int(token) for document in documents for token in document.tokens[1:]]
    counts = torch.bincount(one.document, minlength=len(documents)).tolist()
    assert counts == [len(document.tokens) - 1 for document in documents]
    assert all((nats > 0).all() and len(nats) == sum(LENGTHS) - len(LENGTHS) for nats in one.nats.values())
    for index, document in enumerate(documents):
        assert one.target[one.of(index)].tolist() == document.tokens[1:].tolist()


def test_nats_are_those_of_the_model_on_each_window_alone():
    """The plain twin: window after window, one document at a time, nothing padded, all logits written out."""
    model, documents, window = tiny_mixture(), make_documents(), 16
    (one,) = read_all(model, documents, window)
    for index, document in enumerate(documents):
        place = one.of(index)
        for first in range(0, len(document.tokens) - 1, window):
            ids = torch.from_numpy(document.tokens[first : first + window + 1])[None]
            with torch.no_grad():
                routed = model(ids[:, :-1])
                hiddens = dict(zip(model.names, routed.streams.unbind(2), strict=True))
                hiddens |= {"mixture": routed.hidden, "uniform": routed.streams.mean(2)}
                alone = {name: model.head.nll_plainly(hidden, ids[:, 1:])[0] for name, hidden in hiddens.items()}
            here = slice(place.start + first, place.start + first + ids.shape[1] - 1)
            assert alone.keys() == one.nats.keys()
            for name, nats in alone.items():
                torch.testing.assert_close(one.nats[name][here], nats, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(one.hidden[here], routed.hidden[0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(one.weights[here], routed.weights[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("group", "batch"), [(1, 1), (40, 20), (60, 10_000)])
def test_grouping_and_batching_change_nothing(group: int, batch: int, monkeypatch: pytest.MonkeyPatch):
    model, documents = tiny_mixture(), make_documents()
    whole = read_all(model, documents)
    monkeypatch.setattr(reading, "GROUP_TOKENS", group)
    monkeypatch.setattr(reading, "BATCH_TOKENS", batch)
    parts = read_all(model, documents)
    assert len(parts) > len(whole) == 1
    for name in whole[0].nats:
        torch.testing.assert_close(joined(parts, name), joined(whole, name), atol=1e-5, rtol=1e-5)


def test_order_of_documents_changes_nothing():
    """A document's context is its own."""
    model, documents = tiny_mixture(), make_documents()
    order = [7, 0, 3, 5, 1, 8, 2, 6, 4]
    (one,), (other,) = read_all(model, documents), read_all(model, [documents[i] for i in order])
    for place, index in enumerate(order):
        torch.testing.assert_close(one.nats["mixture"][one.of(index)], other.nats["mixture"][other.of(place)])


def test_a_model_in_training_mode_is_refused():
    with pytest.raises(AssertionError, match="evaluation mode"):
        read_all(tiny_mixture().train(), make_documents())


def test_bits_per_byte_by_hand():
    """A model that knows nothing gives ln V nats a token: bits are tokens times log2 V, over the raw bytes."""
    model = tiny_mixture()
    for expert in model.experts.values():
        torch.nn.init.zeros_(expert.out.weight)
    model.head.bias.zero_()
    texts = {"naïve \U0001f600": "odd", "plain": "even", "": "even"}
    documents = [
        Document(np.array([START, *range(len(text))]), len(text.encode()), domain) for text, domain in texts.items()
    ]
    frame = score(model, documents, window=3)
    figures = summarise(frame, model.names)
    assert figures["bytes"] == 11 + 5 and figures["tokens"] == 7 + 5 and figures["documents"] == 3
    expected = 12 * math.log2(VOCABULARY) / 16
    assert figures["bits_per_byte"] == pytest.approx(expected) == figures["uniform"]
    assert figures["experts"] == pytest.approx(dict.fromkeys(EXPERTS, expected))
    assert figures["domains"]["odd"]["bits_per_byte"] == pytest.approx(7 * math.log2(VOCABULARY) / 11)
    assert figures["dense"] is None and figures["memory"] is None
    assert bits_per_byte(frame, "mixture") == figures["bits_per_byte"]


def test_whole_is_the_byte_weighted_mean_of_the_domains():
    figures = summarise(score(tiny_mixture(), make_documents(), 16), list(EXPERTS))
    domains = figures["domains"].values()
    assert sum(d["bits_per_byte"] * d["bytes"] for d in domains) / figures["bytes"] == pytest.approx(
        figures["bits_per_byte"]
    )
    assert sum(figures["weights"].values()) == pytest.approx(1.0) and len({*figures["weights"].values()}) > 1


def test_weights_are_means_over_tokens():
    model = tiny_mixture()
    documents = make_documents()
    figures = summarise(score(model, documents, 16), model.names)
    mean = read_all(model, documents)[0].weights.mean(0)
    assert list(figures["weights"].values()) == pytest.approx(mean.tolist(), abs=1e-5)


def test_no_documents_are_an_input_error():
    with pytest.raises(InputError, match="no text"):
        score(tiny_mixture(), [], 16)


def make_memories(share: float) -> Memories:
    keys = torch.nn.functional.normalize(torch.randn(60, WIDTH), dim=1).numpy()
    gate = Gate(share=share, sharpness=10.0)
    return Memories(store=VectorStore(Entries.of(keys, np.arange(60) % VOCABULARY)), persistent=gate, scratch=gate)


def test_memories_that_are_off_or_empty_change_no_bit():
    model, documents = tiny_mixture(), make_documents()
    frame = score(model, documents, 16, make_memories(0.0))
    empty = VectorStore(Entries.none(WIDTH))
    other = score(model, documents, 16, Memories(store=empty, persistent=Gate(share=0.5)))
    for one in (frame, other):
        assert all((one[name] == one["mixture"]).all() for name in ("persistent", "persistent_shuffled"))
    assert (frame["scratch"] == frame["mixture"]).all()


def test_shuffled_memory_is_a_store_of_the_shuffled_values(monkeypatch: pytest.MonkeyPatch):
    """Every figure is that of a whole second store, and no second index is made for it."""
    model, documents, kept = tiny_mixture(), make_documents(), make_memories(0.3)
    columns = kept.store.entries
    control = VectorStore(dataclasses.replace(columns, value=np.random.default_rng(4).permutation(columns.value)))
    wanted = score(model, documents, 16, dataclasses.replace(kept, store=control))["persistent"]
    monkeypatch.setattr("nano_think.memory.store.Index", None)
    frame = score(model, documents, 16, kept, seed=4)
    assert (frame["persistent_shuffled"] == wanted).all() and (wanted != frame["persistent"]).any()


def test_memories_do_not_depend_on_grouping_or_order(monkeypatch: pytest.MonkeyPatch):
    """Scratch memory lives within its document, and blocks of queries are a matter of speed."""
    model, documents, kept = tiny_mixture(), make_documents(), make_memories(0.3)
    frame = score(model, documents, 16, kept)
    monkeypatch.setattr(reading, "GROUP_TOKENS", 20)
    monkeypatch.setattr(memories, "BLOCK", 4)
    other = score(model, documents[::-1], 16, kept)[::-1]
    for name in ("scratch", "persistent"):
        np.testing.assert_allclose(frame[name], other[name], rtol=1e-5)
        assert not np.allclose(frame[name], frame["mixture"])


def test_scratch_memory_helps_on_a_repeated_text_and_its_shuffle_does_not():
    model = tiny_mixture()
    phrase = np.random.default_rng(0).permutation(START)
    document = Document(np.concatenate([[START], np.tile(phrase, 4)]), 100, "made")
    (one,) = read_all(model, [document], window=START)
    fitted = fit_memories(make_memories(0.0).store, [one])
    assert fitted.scratch.share > 0.1
    figures = summarise(score(model, [document], START, fitted), model.names)
    scratch = figures["memory"]["scratch"]
    assert scratch["mixture"] < 0.8 * figures["bits_per_byte"] < scratch["shuffled"]
    assert scratch["dense"] is None


def test_the_control_remembers_other_documents_words():
    """Never its own, of which some are still to come; a document alone those of the store, and of an empty one none."""
    (one,) = read_all(tiny_mixture(), make_documents((40, 25, 1, 9)), window=16)
    alone = dataclasses.replace(one, target=one.document * 7)
    control_N = memories.values_of_others(alone, torch.zeros(0), seed=1)
    assert (control_N != alone.target).all() and set(control_N.tolist()) == {0, 7, 21}
    assert not torch.equal(control_N, memories.values_of_others(alone, torch.zeros(0), seed=2))
    longer_N = memories.values_of_others(alone, torch.tensor([98, 99]), seed=1)[alone.document == 0]
    assert set(longer_N.tolist()) == {98, 99}, "all others together are shorter than it"
    (one,) = read_all(tiny_mixture(), make_documents((40,)), window=16)
    assert set(memories.values_of_others(one, torch.tensor([3, 4]), seed=1).tolist()) == {3, 4}
    assert not memories.values_of_others(one, torch.zeros(0), seed=1).any()


def test_documents_without_text_have_no_neighbours():
    """A file whose rows are all empty is no reason to fall over."""
    model, documents = tiny_mixture(), make_documents((1, 1))
    (one,) = read_all(model, documents)
    assert search_documents(one).value.shape == (0, memories.NEIGHBOURS)
    assert len(search(make_memories(0.3).store, one).value) == 0
    assert score(model, documents, 16, make_memories(0.3))["tokens"].tolist() == [0, 0]


def test_beyond_the_window_is_measured_on_longer_documents_alone():
    """By hand from the reader; off and empty are the mixture's own nats, and no other column changes."""
    model, documents, kept = tiny_mixture(), make_documents(), make_memories(0.3)
    reader = ScratchReader(WIDTH).requires_grad_(False)
    plain = score(model, documents, 16, kept)
    frame = score(model, documents, 16, dataclasses.replace(kept, reader=reader))
    assert frame[plain.columns].equals(plain)
    (one,) = read_all(model, documents)
    for index, document in enumerate(documents):
        nats_T = one.nats["mixture"][one.of(index)]
        assert frame["late.off"][index] == pytest.approx(float(nats_T[16:].sum()), abs=1e-4)
        if len(document.tokens) - 1 <= 16:
            assert frame["late.memory"][index] == frame["late.shuffled"][index] == 0
    found = beyond_window(frame)
    assert found and found["documents"] == sum(length > 17 for length in LENGTHS)
    assert found["memory"]["change"] == pytest.approx(frame["late.memory"].sum() / frame["late.off"].sum() - 1)
    assert beyond_window(plain) is None and beyond_window(frame[frame["late.off"] == 0]) is None


def test_a_reader_is_trained_on_what_was_read():
    readings = read_all(tiny_mixture(), make_documents())
    reader = fit_reader(readings, 16)
    assert not torch.equal(reader.map, torch.eye(WIDTH)) and not reader.map.requires_grad
