"""Memories read as slots: by hand, off and empty, before and after training."""

import pytest
import torch
from torch import Tensor

from nano_think.memory.read import to_key
from nano_think.memory.slots import SOURCES, Lesson, SlotReader, Slots, Source, train_slots
from tests.tiny import VOCABULARY, WIDTH, tiny_head

S, T, K = 12, 9, 4


def make_reader(seed: int = 0) -> SlotReader:
    """With nothing left as it begins."""
    torch.manual_seed(seed)
    reader = SlotReader(WIDTH)
    for parameter in reader.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return reader.requires_grad_(False)


def entries(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return to_key(torch.randn(S, WIDTH, generator=generator)), torch.randint(VOCABULARY, (S,), generator=generator)


def shown(hidden_TD: Tensor, key_SD: Tensor) -> Slots:
    """The nearest entries; the first token is shown none, the second one."""
    similarity_Tk, entry_Tk = (to_key(hidden_TD) @ key_SD.T).topk(K)
    few_Tk = torch.arange(K) >= torch.arange(len(hidden_TD))[:, None]
    return Slots(similarity_Tk.masked_fill(few_Tk, -torch.inf), entry_Tk.masked_fill(few_Tk, -1))


def by_hand(reader: SlotReader, h_D: Tensor, latents: Tensor, similar: list[float], at: int) -> Tensor:
    """One token, head by head, entry by entry."""
    H, q = reader.head, reader.query(reader.norm(h_D))
    up_k, up_v = reader.up.weight[: len(h_D)], reader.up.weight[len(h_D) :]
    told = []
    for n in range(reader.n_heads):
        rows, tau = slice(n * H, (n + 1) * H), reader.log_sharpness[at, n].exp()
        scores = [q[rows] @ (up_k @ c)[rows] / H**0.5 + tau * s for c, s in zip(latents, similar, strict=True)]
        share = torch.stack([*scores, tau * reader.threshold[at, n]]).softmax(0)
        told.append(reader.gate[at, n].tanh() * sum(a * (up_v @ c)[rows] for a, c in zip(share, latents, strict=False)))
    return h_D + reader.out(torch.cat(told))


@pytest.mark.parametrize("source", SOURCES)
def test_it_is_its_plain_twin_and_what_it_is_by_hand(source: Source):
    reader, (key_SD, value_S), hidden_TD = make_reader(), entries(), torch.randn(T, WIDTH)
    latent_SD, slots = reader.latents(key_SD, tiny_head().embed(value_S)), shown(hidden_TD, key_SD)
    found_TD = reader(hidden_TD, latent_SD, slots, source)
    torch.testing.assert_close(found_TD, reader.read_plainly(hidden_TD, latent_SD, slots, source))
    assert torch.equal(found_TD[0], hidden_TD[0])
    for t in range(1, T):
        entry = [int(e) for e in slots.entry[t] if e >= 0]
        similar = slots.similarity[t, : len(entry)].tolist()
        wanted_D = by_hand(reader, hidden_TD[t], latent_SD[entry], similar, SOURCES.index(source))
        torch.testing.assert_close(found_TD[t], wanted_D, atol=1e-5, rtol=1e-4)


def test_slots_have_no_position_and_no_order():
    reader, (key_SD, value_S), hidden_TD = make_reader(), entries(), torch.randn(T, WIDTH)
    latent_SD, slots = reader.latents(key_SD, tiny_head().embed(value_S)), shown(hidden_TD, key_SD)
    turned = Slots(slots.similarity.flip(1), slots.entry.flip(1))
    found, other = (reader(hidden_TD, latent_SD, one, "scratch") for one in (slots, turned))
    torch.testing.assert_close(found, other)


def test_untrained_shut_or_empty_it_changes_no_bit():
    key_SD, value_S = entries()
    hidden_TD, next_SD = torch.randn(T, WIDTH), tiny_head().embed(value_S)
    slots, fresh, shut = shown(hidden_TD, key_SD), SlotReader(WIDTH), make_reader()
    shut.gate.zero_()
    for reader in (fresh, shut):
        assert torch.equal(reader(hidden_TD, reader.latents(key_SD, next_SD), slots, "persistent"), hidden_TD)
    reader, none = make_reader(), Slots(torch.full((T, K), -torch.inf), torch.full((T, K), -1))
    for latent_SD in (reader.latents(key_SD, next_SD), torch.zeros(0, WIDTH)):
        assert torch.equal(reader(hidden_TD, latent_SD, none, "persistent"), hidden_TD)


def test_it_begins_as_a_memory_of_tokens():
    """Opened and shown one entry, every head gives back what came next, so that this becomes likelier."""
    reader, head, (key_SD, value_S) = SlotReader(WIDTH), tiny_head(), entries()
    reader.requires_grad_(False).gate.fill_(1.0)
    latent_SD, entry = reader.latents(key_SD, head.embed(value_S)), torch.arange(S)[:, None]
    read_SD = reader(torch.zeros(S, WIDTH), latent_SD, Slots(torch.ones(S, 1), entry), "scratch")
    assert (head.logits(read_SD) - head.bias).argmax(-1).tolist() == value_S.tolist()


def lesson_of(helps: bool) -> tuple[Tensor, Tensor, Lesson]:
    """256 states near entries of twelve; what comes next is what came there, or anything."""
    generator = torch.Generator().manual_seed(3)
    (key_SD, value_S), entry_T = entries(), torch.randint(S, (256,), generator=generator)
    hidden_TD = 3 * (key_SD[entry_T] + 0.05 * torch.randn(256, WIDTH, generator=generator))
    similarity_Tk, found_Tk = (to_key(hidden_TD) @ key_SD.T).topk(K)
    anything_T = torch.randint(VOCABULARY, (256,), generator=generator)
    target_T = value_S[entry_T] if helps else anything_T
    return key_SD, value_S, Lesson(hidden_TD, target_T, {"persistent": Slots(similarity_Tk, found_Tk)})


def test_training_opens_it_where_what_is_remembered_comes_again():
    """On what it was not trained on too; with words that never came it is worse than without a memory."""
    head, (key_SD, value_S, lesson) = tiny_head(), lesson_of(helps=True)
    with torch.enable_grad():
        reader = train_slots(head, key_SD, value_S, lesson, epochs=40)
    fresh_TD = 3 * (key_SD + 0.05 * torch.randn(S, WIDTH))
    similarity_Tk, entry_Tk = (to_key(fresh_TD) @ key_SD.T).topk(K)

    def nats(values: Tensor) -> float:
        latent_SD = reader.latents(key_SD, head.embed(values))
        told_TD = reader(fresh_TD, latent_SD, Slots(similarity_Tk, entry_Tk), "persistent")
        return float(head.nll(told_TD[None], value_S[None]).mean())

    off = float(head.nll(fresh_TD[None], value_S[None]).mean())
    assert nats(value_S) < 0.6 * off < off < nats((value_S + 23) % VOCABULARY)
    assert (reader.gate[0] > 0.1).all() and (reader.gate[1] == 0).all() and not reader.gate.requires_grad


def test_training_twice_is_the_same_and_draws_from_nobody():
    head, (key_SD, value_S, lesson) = tiny_head(), lesson_of(helps=True)
    state = torch.get_rng_state()
    one, two = (train_slots(head, key_SD, value_S, lesson, epochs=1).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert torch.equal(torch.get_rng_state(), state)


def test_training_by_several_threads_is_the_same_every_time():
    """Enough tokens that threads share them out, all of the same few entries: a sum in any order would tell."""
    head, key_SD = tiny_head(), to_key(torch.randn(8, WIDTH))
    entry_Tk = torch.randint(8, (2048, 16))
    lesson = Lesson(
        torch.randn(2048, WIDTH), torch.randint(VOCABULARY, (2048,)),
        {"persistent": Slots(torch.rand(2048, 16), entry_Tk)},
    )  # fmt: skip
    torch.set_num_threads(2)
    one, *others = (train_slots(head, key_SD, torch.arange(8), lesson, epochs=1).state_dict() for _ in range(4))
    assert all(torch.equal(one[name], other[name]) for other in others for name in one)


def test_training_on_nothing_leaves_it_shut():
    key_SD, value_S, lesson = lesson_of(helps=True)
    nothing = Lesson(lesson.hidden[:0], lesson.target[:0], {"persistent": lesson.slots["persistent"].at(slice(0))})
    assert not train_slots(tiny_head(), key_SD, value_S, nothing).gate.any()
