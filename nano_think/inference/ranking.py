"""Several answers, and the one that is most like what people write."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from nano_think.core.errors import UsageError
from nano_think.inference.engine import Engine
from nano_think.inference.means import mean_figures
from nano_think.inference.request import Event, Memory, Request
from nano_think.inference.sampling import SEEDS

ENERGY = "energy"


def best_of(engine: Engine, request: Request, count: int) -> Iterator[Event]:
    """The events of the answer of lowest energy among `count`, whose seeds follow the request's, when all are there.

    They are samples of P_LM, and the lower its energy the likelier a text is under P_LM exp(-E) than under P_LM (Deng
    et al. 2020, section 3.4, keeps samples in proportion to exp(-E); here it is the best one). `UsageError` where the
    model tells no energy, and where turns would be remembered: a memory holds one answer.
    """
    answers: dict[int, list[Event]] = {engine.submit(one): [] for one in candidates(request, count, engine.figures)}
    try:
        while any(not events or not events[-1].finish for events in answers.values()):
            for event in engine.step():
                if event.request in answers:
                    answers[event.request].append(event)
    finally:
        if left := [number for number, events in answers.items() if not events or not events[-1].finish]:
            for number in left:
                engine.cancel(number)
            engine.step()
    yield from lowest(answers.values())


def candidates(request: Request, count: int, figures: Collection[str]) -> list[Request]:
    """The requests whose answers compete, of a model whose parts tell such figures."""
    check_best_of(figures, request.memory)
    seeds = [(request.sampling.seed + n) % SEEDS for n in range(count)]
    return [replace(request, sampling=replace(request.sampling, seed=seed)) for seed in seeds]


def check_best_of(figures: Collection[str], memory: Memory) -> None:
    """`UsageError` where a model that tells such figures cannot choose, or a memory could not keep all answers."""
    if ENERGY not in figures:
        raise UsageError("best-of: this model tells no energy; train one with: nano-think sft --parts.on energy")
    if memory == "read-write":
        raise UsageError("best-of: a memory keeps one answer; wanted memory off or read")


def lowest(answers: Collection[list[Event]]) -> list[Event]:
    """The answer of lowest energy; one that failed where any did, for then it is not known."""
    failed = [events for events in answers if events[-1].finish == "error"]
    return failed[0] if failed else min(answers, key=mean_energy)


def mean_energy(events: Sequence[Event]) -> float:
    """The mean energy of an answer's tokens (nats); infinite for an answer of no token that was read."""
    return mean_figures(events).get(ENERGY, float("inf"))
