"""The best of several answers."""

from dataclasses import replace

import pytest

from nano_think.core.errors import UsageError
from nano_think.inference.engine import Engine
from nano_think.inference.ranking import best_of, candidates, lowest, mean_energy
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


def test_who_breaks_off_leaves_nothing_running(monkeypatch):
    engine, steps = Engine(tiny_chat(parts=["energy"]), Words(), window=24, rows=2), []
    step = engine.step

    def interrupted():
        steps.append(1)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return step()

    monkeypatch.setattr(engine, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(best_of(engine, REQUEST, 5))
    assert not engine.busy


def test_an_answer_that_failed_is_told():
    """For then the best one is not known."""
    fine = [Event(request=1, figures={"energy": 1.0}), Event(request=1, figures={"energy": 1.0}, finish="stop")]
    failed = [Event(request=2, finish="error", error="no")]
    assert lowest([fine, failed]) == failed and lowest([fine]) == fine


def test_turns_that_are_remembered_have_one_answer():
    with pytest.raises(UsageError, match="a memory keeps one answer"):
        candidates(replace(REQUEST, memory="read-write"), 2, ["energy"])


def test_the_seeds_go_round():
    last = replace(REQUEST, sampling=replace(REQUEST.sampling, seed=2**63 - 1))
    assert [one.sampling.seed for one in candidates(last, 2, ["energy"])] == [2**63 - 1, 0]


def test_a_model_without_energy_says_so():
    with pytest.raises(UsageError, match="this model tells no energy; train one"):
        list(best_of(Engine(tiny_chat(), Words(), window=24), REQUEST, 2))
