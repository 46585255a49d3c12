"""The trained scratch memory: what it says by hand, what it may see, and what it learns."""

import pytest
import torch
from torch import Tensor

from nano_think.memory import scratch
from nano_think.memory.scratch import REACHES, Reach, ScratchReader, Told, train_reader

D, V, WINDOW = 6, 20, 5


def tell(length: int, seed: int = 0) -> Told:
    generator = torch.Generator().manual_seed(seed)
    hidden_TD = torch.randn(length, D, generator=generator)
    return Told(
        hidden_TD, torch.randint(V, (length,), generator=generator), torch.rand(length, generator=generator) * 5
    )


def make_reader(seed: int = 0) -> ScratchReader:
    """With nothing left as it begins."""
    torch.manual_seed(seed)
    reader = ScratchReader(D)
    for parameter in reader.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return reader.requires_grad_(False)


def plainly(reader: ScratchReader, told: Told, reach: Reach, words: int = V) -> Tensor:
    """-log of the whole mixed distribution at every token but the first with entries, by a loop, (T, V); NaN before."""
    at, found = REACHES.index(reach), torch.full((len(told.target), words), torch.nan)
    keys = torch.nn.functional.normalize(told.hidden @ reader.map.T, dim=1)
    for t in range(len(keys)):
        end = t if reach == "all" else t // WINDOW * WINDOW
        if end:
            similar = keys[:end] @ keys[t]
            share = (reader.log_sharpness[at].exp() * similar).softmax(0)
            memory = torch.zeros(words).index_add_(0, told.target[:end], share)
            features = torch.stack(
                [2 * (keys[:end] @ keys[t]).max() - 1, share.max(), torch.tensor(float(end)).log() / 8]
            )
            gate = torch.sigmoid(features @ reader.gate[at] + reader.bias[at])
            found[t] = -((1 - gate) * (-told.nats[t]).exp() + gate * memory).log()
    return found


@pytest.mark.parametrize("reach", REACHES)
@pytest.mark.parametrize("block", [3, 512])
def test_it_is_its_plain_twin(reach: Reach, block: int, monkeypatch: pytest.MonkeyPatch):
    """And a token that has nothing to remember keeps the model's nats, bit for bit."""
    monkeypatch.setattr(scratch, "BLOCK", block)
    reader, told = make_reader(), tell(17)
    found_T = reader.recall(told, WINDOW, reach).mixed(told.nats)
    wanted_T = plainly(reader, told, reach)[torch.arange(17), told.target]
    none_T = wanted_T.isnan()
    assert torch.equal(found_T[none_T], told.nats[none_T]) and none_T.sum() == (1 if reach == "all" else WINDOW)
    torch.testing.assert_close(found_T[~none_T], wanted_T[~none_T], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("reach", REACHES)
def test_what_comes_later_changes_no_bit(reach: Reach):
    """Nor, beyond the window, what the model sees by itself."""
    reader, told = make_reader(), tell(17)
    before = reader.recall(told, WINDOW, reach)
    for place in range(17):
        hidden_TD, target_T = told.hidden.clone(), told.target.clone()
        hidden_TD[place + 1 :] += 1
        target_T[place + 1 :] = (target_T[place + 1 :] + 1) % V
        after = reader.recall(Told(hidden_TD, target_T, told.nats), WINDOW, reach)
        for one, other in zip(before, after, strict=True):
            assert torch.equal(one[..., : place + 1], other[..., : place + 1])
        if reach == "beyond":
            hidden_TD, first = told.hidden.clone(), place // WINDOW * WINDOW
            hidden_TD[first:place] += 1
            after = reader.recall(Told(hidden_TD, told.target, told.nats), WINDOW, reach)
            assert torch.equal(before.memory[0, place], after.memory[0, place])


def test_other_values_are_another_memory_of_the_same_gate():
    reader, told = make_reader(), tell(17)
    shuffled_T = told.target.flip(0)
    both = reader.recall(told, WINDOW, "all", (told.target, shuffled_T))
    alone = reader.recall(told, WINDOW, "all")
    assert torch.equal(both.memory[0], alone.memory[0]) and torch.equal(both.gate, alone.gate)
    assert not torch.equal(both.memory[1], both.memory[0])
    assert torch.equal(both.mixed(told.nats), alone.mixed(told.nats))


def repeating(seed: int) -> Told:
    """Text that says the same again and again, in half of its channels; the other half is noise that drowns it."""
    generator = torch.Generator().manual_seed(seed)
    phrase = torch.randint(V, (7,), generator=generator)
    target_T, clear_TD = phrase.repeat(6), torch.randn(7, D // 2, generator=generator).repeat(6, 1)
    noise_TD = 3 * torch.randn(42, D - D // 2, generator=generator)
    return Told(torch.cat([clear_TD, noise_TD], dim=1), target_T, torch.full((42,), 3.0))


def test_training_finds_what_repeats():
    """It learns which channels say what comes and trusts them; on other text and beyond the window as well. With other
    values it is no better than without memory.
    """
    reader, fresh, told = (
        train_reader([repeating(seed) for seed in range(1, 9)], D, WINDOW, epochs=20),
        ScratchReader(D),
        repeating(99),
    )
    for reach in REACHES:
        learned, begun = (one.recall(told, WINDOW, reach).mixed(told.nats).mean() for one in (reader, fresh))
        assert learned < 0.7 * begun < 0.7 * 3.0
    other_T = torch.randint(V, (42,), generator=torch.Generator().manual_seed(5))
    assert reader.recall(told, WINDOW, "all", (other_T,)).mixed(told.nats).mean() > 3.0
    clear, noisy = reader.map[:, : D // 2].norm(), reader.map[:, D // 2 :].norm()
    assert clear > noisy and not reader.map.requires_grad


def test_training_twice_is_the_same():
    told = [repeating(seed) for seed in range(3)]
    one, two = (train_reader(told, D, WINDOW, epochs=1).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_training_on_nothing_leaves_it_as_it_begins():
    assert torch.equal(train_reader([], D, WINDOW).map, torch.eye(D))


def test_training_sees_the_beginning_of_long_documents(monkeypatch: pytest.MonkeyPatch):
    whole = repeating(3)
    monkeypatch.setattr(scratch, "LONGEST", 20)
    one = train_reader([whole], D, WINDOW, epochs=1)
    two = train_reader([Told(*(part[:20] for part in whole))], D, WINDOW, epochs=1)
    assert torch.equal(one.map, two.map)
