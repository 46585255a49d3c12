"""Several answers, and the one that is most like what people write."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import fmean

from nano_think.core.errors import UsageError
from nano_think.inference.engine import Engine
from nano_think.inference.request import Event, Request

ENERGY = "energy"


def best_of(engine: Engine, request: Request, count: int) -> Iterator[Event]:
    """The events of the answer of lowest energy among `count`, whose seeds follow that of the request.

    They are samples of P_LM, and the lower its energy the likelier a text is under P_LM exp(-E) than under P_LM (Deng
    et al. 2020, section 3.4, keeps samples in proportion to exp(-E); here it is the best one). `UsageError` where the
    model tells no energy, and where turns would be remembered: a memory holds one answer.
    """
    if request.memory == "read-write":
        raise UsageError("best-of: a memory keeps one answer; wanted --memory off or read")
    seeds = range(request.sampling.seed, request.sampling.seed + count)
    asked = [replace(request, sampling=replace(request.sampling, seed=seed)) for seed in seeds]
    answers: dict[int, list[Event]] = {engine.submit(one): [] for one in asked}
    while engine.busy:
        for event in engine.step():
            answers[event.request].append(event)
    if not any(ENERGY in event.figures for events in answers.values() for event in events):
        raise UsageError("best-of: this model tells no energy; train one with: nano-think sft --parts.on energy")
    yield from min(answers.values(), key=mean_energy)


def mean_energy(events: Sequence[Event]) -> float:
    """The mean energy of an answer's tokens (nats): each event tells of the token before its own, the first of the
    prompt. Infinite for an answer of no token that was read.
    """
    told = [event.figures[ENERGY] for event in events[1:] if ENERGY in event.figures]
    return fmean(told) if told else float("inf")
