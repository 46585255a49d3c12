"""The best of several answers."""

import pytest

from nano_think.core.errors import UsageError
from nano_think.inference.engine import Engine
from nano_think.inference.ranking import best_of, mean_energy
from nano_think.inference.request import Event, Request
from nano_think.inference.sampling import SamplingConfig
from tests.tiny import START, Words, tiny_chat

REQUEST = Request(prompt=(START, 3), max_new_tokens=6, sampling=SamplingConfig(temperature=1.5, seed=4))


def said(events: list[Event]) -> list[int]:
    return [event.token for event in events if event.token is not None]


def test_the_answer_of_the_lowest_energy_is_told():
    model = tiny_chat(parts=["energy"])
    alone = []
    for seed in range(4, 9):
        sampling = SamplingConfig(temperature=1.5, seed=seed)
        alone.append(
            list(
                Engine(model, Words(), window=24).stream(
                    Request(prompt=(START, 3), max_new_tokens=6, sampling=sampling)
                )
            )
        )
    best = list(best_of(Engine(model, Words(), window=24, rows=2), REQUEST, 5))
    energies = [mean_energy(events) for events in alone]
    assert len({tuple(said(events)) for events in alone}) > 2
    assert said(best) == said(alone[energies.index(min(energies))])


def test_the_energy_of_an_answer_is_that_of_its_own_tokens():
    events = [Event(request=1, figures={"energy": value}) for value in (9.0, 1.0, 3.0)]
    assert mean_energy(events) == 2.0 and mean_energy(events[:1]) == float("inf")


def test_a_model_without_energy_says_so():
    with pytest.raises(UsageError, match="this model tells no energy; train one"):
        list(best_of(Engine(tiny_chat(), Words(), window=24), REQUEST, 2))
