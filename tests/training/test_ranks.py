"""Several processes are one: the same gradient, one decision about every step, and the first alone writes."""

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor, nn

from nano_think.core import interrupts
from nano_think.core.errors import DivergedError, Interrupted
from nano_think.training.loop import _Run, train
from nano_think.training.objectives import Objective
from nano_think.training.ranks import Ranks
from tests.perturbation import randomise_zeros
from tests.tiny import START
from tests.tiny_launch import end, launch, read_until_saved
from tests.tiny_training import CONFIG, OBJECTIVES, SEED, STEPS, make_calm, make_windows


class Turns:
    """Threads that work in turn, each with torch's generator as it left it: as if each were a process of its own."""

    def __init__(self, threads: int):
        self._turn, self._meeting, self._start = threading.Lock(), threading.Barrier(threads), torch.get_rng_state()

    def __enter__(self) -> None:
        self._turn.acquire()
        torch.set_rng_state(self._start)

    def __exit__(self, *error: object) -> None:
        self._turn.release()

    def meet(self) -> None:
        """Let the others work until all are here."""
        state = torch.get_rng_state()
        self._turn.release()
        try:
            self._meeting.wait(60)
        finally:
            self._turn.acquire()
            torch.set_rng_state(state)


class Half:
    """One of two "processes" that are threads: an accelerator whose sums are over both."""

    num_processes = 2

    def __init__(self, accelerator: Accelerator, rank: int, turns: Turns, brought: list[Any]):
        self._accelerator, self.process_index, self._turns, self._brought = accelerator, rank, turns, brought

    def __getattr__(self, name: str) -> Any:
        return getattr(self._accelerator, name)

    def gather(self, value: Tensor) -> Tensor:
        self._brought[self.process_index] = value.clone()
        self._turns.meet()
        both = torch.cat(self._brought)
        self._turns.meet()
        return both

    def reduce(self, value: Tensor, how: str) -> Tensor:
        assert how == "sum"
        return self.gather(value.detach()[None]).sum(0)

    def wait_for_everyone(self) -> None:
        self._turns.meet()


@pytest.fixture
def together(accelerator: Accelerator) -> Callable[[Callable[[Any], Any]], list[Any]]:
    """together(work) -> what work(half) returned, or the error it ended with, in each of two ranks."""

    def run(work: Callable[[Any], Any]) -> list[Any]:
        turns, brought, results = Turns(2), [None, None], [None, None]

        def one(rank: int) -> None:
            try:
                with turns:
                    results[rank] = work(Half(accelerator, rank, turns, brought))
            except BaseException as error:
                results[rank] = error

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results

    return run


def differentiate(objective: Objective, accelerator: Any, folder: Path, **more) -> dict[str, Tensor]:
    """The terms of the loss and the gradients of one step."""
    randomise_zeros(objective)
    run = _Run(objective, make_windows(), replace(CONFIG, **more), accelerator, folder, lambda event: None, SEED)
    terms = {f"loss.{name}": value for name, value in run._differentiate(3).items()}
    return terms | {name: p.grad for name, p in objective.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_ranks_are_one(name: str, parts: int, together, accelerator: Accelerator, tmp_path: Path):
    """Within a millionth of the largest entry of each gradient, and the same bits in both."""
    whole = differentiate(make_calm(name), accelerator, tmp_path)
    objectives = [make_calm(name) for _ in range(2)]
    ranks = together(lambda half: differentiate(objectives[half.process_index], half, tmp_path, accumulate=parts))
    for found in ranks:
        assert found.keys() == whole.keys()
        for key, value in whole.items():
            torch.testing.assert_close(found[key], value, rtol=0, atol=1e-6 * max(value.abs().max().item(), 1e-2))
    assert all(torch.equal(value, ranks[1][key]) for key, value in ranks[0].items())


def test_a_gradient_that_nobody_has_stays_none(together):
    """Weight decay would shrink a parameter that took no part; one that took part anywhere has its sum everywhere."""

    def work(half: Half) -> list[Tensor | None]:
        none, some, all_ = (nn.Parameter(torch.ones(2)) for _ in range(3))
        all_.grad = torch.full((2,), 1.0 + half.process_index)
        if half.process_index:
            some.grad = torch.full((2,), 5.0)
        Ranks(half).sum_gradients([none, some, all_])
        return [none.grad, some.grad, all_.grad]

    for none, some, all_ in together(work):
        assert none is None and some.tolist() == [5, 5] and all_.tolist() == [3, 3]


class BrokenInOne(Objective):
    """(w - 1)^2, which is not finite at some steps in one of the ranks."""

    def __init__(self, bad: set[int]):
        super().__init__(START)
        self.weight, self.bad = nn.Parameter(torch.tensor([3.0])), bad

    def forward(self, tokens_BT1: Tensor, share: float) -> dict[str, Tensor]:
        loss = (self.weight - 1).square().sum()
        return {"square": loss * float("nan") if round(share * STEPS) in self.bad else loss}


def train_both(together, bad: set[int], folder: Path, log=lambda event: None) -> tuple[list[Any], list[Objective]]:
    objectives = [BrokenInOne(set()), BrokenInOne(bad)]
    config = replace(CONFIG, save_every=1e9)

    def work(half: Half) -> dict[str, Any]:
        return train(objectives[half.process_index], make_windows(), config, half, folder, log, SEED)

    return together(work), objectives


def test_a_step_that_is_broken_in_one_rank_is_left_out_in_both(together, tmp_path: Path):
    results, objectives = train_both(together, {2, 5}, tmp_path)
    assert [figures["skipped_steps"] for figures in results] == [2, 2]
    assert torch.equal(objectives[0].weight, objectives[1].weight) and objectives[0].weight.isfinite()


def test_both_ranks_give_up_together(together, tmp_path: Path):
    results, _ = train_both(together, {3, 4, 5, 6, 7}, tmp_path)
    assert [type(error) for error in results] == [DivergedError, DivergedError]


def test_a_signal_to_one_rank_stops_both_at_one_step(together, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The first one saves; a rank that went on would wait for the other for ever."""
    events: list[dict[str, Any]] = []
    asked = iter([0, 0, 0, 0, 0, signal.SIGTERM])
    monkeypatch.setattr(interrupts, "requested", lambda: next(asked, 0))
    results, _ = train_both(together, set(), tmp_path, events.append)
    assert [(type(error), error.exit_code) for error in results] == [(Interrupted, 143)] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000003"]


def test_the_first_rank_alone_logs(together, tmp_path: Path):
    events: list[dict[str, Any]] = []
    train_both(together, set(), tmp_path, events.append)
    steps = [event["step"] for event in events if event["event"] == "step"]
    assert steps == [4, 8, 11]


@pytest.mark.slow
def test_two_launched_processes_are_one(tmp_path: Path):
    """`accelerate launch` with two processes on the CPU: the gradient of one, one log, one set of files."""
    end(launch(tmp_path, "one", 1))
    events = end(launch(tmp_path, "two", 2))
    assert len({event["pid"] for event in events}) == 1
    one, two = (load_file(tmp_path / out / "grads.safetensors") for out in ("one", "two"))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=0, atol=1e-6 * max(value.abs().max().item(), 1e-2))


@pytest.mark.slow
def test_two_killed_processes_go_on_as_if_nothing_had_been(tmp_path: Path):
    """kill -9 of all of them in the middle, dropout on: the weights of an uninterrupted run, bit for bit."""
    end(launch(tmp_path, "whole", 2, 0.2))
    process = launch(tmp_path, "cut", 2, 0.2)
    pid = read_until_saved(process, 5)
    os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=600)
    assert process.returncode
    events = end(launch(tmp_path, "cut", 2, 0.2))
    assert next(event["step"] for event in events if event["event"] == "resumed") >= 5
    whole, cut = (load_file(tmp_path / out / "weights.safetensors") for out in ("whole", "cut"))
    assert all(torch.equal(value, cut[key]) for key, value in whole.items())
