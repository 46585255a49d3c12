"""The loop: a training that was interrupted ends as one that was not, and broken numbers never reach the weights."""

import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from nano_think.core import interrupts
from nano_think.core.errors import DivergedError, Interrupted, UsageError
from nano_think.training.loop import Gauge, TrainConfig, seed_everything, train
from nano_think.training.objectives import Objective
from tests.tiny import START
from tests.tiny_training import CONFIG, LOG_EVERY, OBJECTIVES, SEED, STEPS, WINDOW, make_objective, make_windows

Events = list[dict[str, Any]]


class Killed(Exception):
    """Stands for a kill: nothing in the library knows it."""


def dying_at(step: int, events: Events) -> Callable[[dict[str, Any]], None]:
    def log(event: dict[str, Any]) -> None:
        events.append(event)
        if event["event"] == "saved" and event["step"] == step:
            raise Killed

    return log


def curve(events: Events) -> dict[int, dict[str, Any]]:
    steps = [event for event in events if event["event"] == "step"]
    return {e["step"]: {k: v for k, v in e.items() if k != "tokens_per_second"} for e in steps}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_resumed_training_is_the_uninterrupted_one(name: str, accelerator: Accelerator, tmp_path: Path):
    """Bit-equal weights and curve after two deaths, one of them between two lines of the log; dropout is on."""
    whole_events: Events = []
    whole = make_objective(name)
    figures = train(whole, make_windows(), CONFIG, accelerator, tmp_path / "whole", whole_events.append, SEED)
    events: Events = []
    for step in (3, 8):
        with pytest.raises(Killed):
            train(
                make_objective(name),
                make_windows(),
                CONFIG,
                accelerator,
                tmp_path / "cut",
                dying_at(step, events),
                SEED,
            )
        seed_everything(step)
    last = make_objective(name)
    resumed = train(last, make_windows(), CONFIG, accelerator, tmp_path / "cut", events.append, SEED)
    assert [e["step"] for e in events if e["event"] == "resumed"] == [3, 8]
    ours = last.state_dict()
    assert all(torch.equal(value, ours[path]) for path, value in whole.state_dict().items())
    start = make_objective(name).state_dict()
    assert any(not torch.equal(value, start[path]) for path, value in ours.items())
    assert curve(events) == curve(whole_events) and len(curve(events)) == math.ceil(STEPS / LOG_EVERY)
    untimed = [
        {k: v for k, v in one.items() if k not in ("seconds", "tokens_per_second")} for one in (figures, resumed)
    ]
    assert untimed[0] == untimed[1] and untimed[0]["skipped_steps"] == 0


def test_two_trainings_of_one_seed_are_equal_and_of_two_are_not(accelerator: Accelerator, tmp_path: Path):
    states = []
    for run, seed in enumerate((1, 1, 2)):
        objective = make_objective("transformer")
        train(objective, make_windows(), CONFIG, accelerator, tmp_path / str(run), lambda event: None, seed)
        states.append(objective.expert.out.weight)
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])


class Broken(Objective):
    """(w - 1)^2, but at some steps the loss or its gradient is not finite."""

    def __init__(self, bad_steps: set[int], how: str):
        super().__init__(START)
        self.weight = nn.Parameter(torch.tensor([3.0]))
        self.bad_steps, self.how = bad_steps, how

    def forward(self, tokens_BT1: Tensor, share: float) -> dict[str, Tensor]:
        loss = (self.weight - 1).square().sum()
        if round(share * STEPS) in self.bad_steps:
            loss = loss * math.nan if self.how == "loss" else loss + (self.weight * 0).sqrt().sum()
        return {"square": loss}


@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_a_broken_step_is_left_out_and_counted(how: str, accelerator: Accelerator, tmp_path: Path):
    """The weights take the path of a training whose broken steps did nothing; the curve stays finite."""
    bad, events = {1, 2, 3, 4, 7}, []
    broken = Broken(bad - {4}, how)
    figures = train(broken, make_windows(), CONFIG, accelerator, tmp_path, events.append, SEED)
    assert figures["skipped_steps"] == 4 and broken.weight.isfinite().all() and broken.weight < 3
    assert all(math.isfinite(point["loss"]) for point in curve(events).values()) and math.isfinite(figures["loss"])
    clean = Broken(set(), how)
    train(clean, make_windows(), CONFIG, accelerator, tmp_path / "clean", events.append, SEED)
    assert broken.weight > clean.weight


def test_a_log_line_of_broken_steps_alone_repeats_the_last(accelerator: Accelerator, tmp_path: Path):
    events: Events = []
    train(Broken({4, 5, 6, 7}, "loss"), make_windows(), CONFIG, accelerator, tmp_path, events.append, SEED)
    points = curve(events)
    assert points[8]["loss"] == points[4]["loss"] and points[11]["loss"] < points[8]["loss"]


@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_five_broken_steps_in_a_row_end_the_training(how: str, accelerator: Accelerator, tmp_path: Path):
    broken = Broken({3, 4, 5, 6, 7}, how)
    with pytest.raises(DivergedError, match=r"step 7: no finite loss or gradient in 5 steps in a row") as error:
        train(broken, make_windows(), CONFIG, accelerator, tmp_path, lambda event: None, SEED)
    assert error.value.exit_code == 7 and broken.weight.isfinite().all()


def test_signal_saves_and_leaves_and_the_next_run_goes_on(
    accelerator: Accelerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = TrainConfig(tokens=CONFIG.tokens, batch=4, save_every=1e9, log_every=LOG_EVERY)

    def stop_at_four(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 4:
            monkeypatch.setattr(interrupts, "_requested", signal.SIGTERM)

    cut = make_objective("diffuser")
    with pytest.raises(Interrupted) as error:
        train(cut, make_windows(), config, accelerator, tmp_path / "cut", stop_at_four, SEED)
    assert error.value.exit_code == 143
    monkeypatch.setattr(interrupts, "_requested", 0)
    events: Events = []
    ours = make_objective("diffuser")
    train(ours, make_windows(), config, accelerator, tmp_path / "cut", events.append, SEED)
    assert events[0] == {"event": "resumed", "step": 4, "steps": STEPS}
    whole = make_objective("diffuser")
    train(whole, make_windows(), config, accelerator, tmp_path / "whole", lambda event: None, SEED)
    assert all(torch.equal(value, whole.state_dict()[path]) for path, value in ours.state_dict().items())


def test_signal_at_the_last_step_lets_the_training_end(
    accelerator: Accelerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """What is done is done: to throw it away would cost the time since the last checkpoint."""

    def stop_at_the_end(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == STEPS:
            monkeypatch.setattr(interrupts, "_requested", signal.SIGINT)

    config = TrainConfig(tokens=CONFIG.tokens, batch=4, save_every=1e9, log_every=LOG_EVERY)
    assert (
        train(Broken(set(), ""), make_windows(), config, accelerator, tmp_path, stop_at_the_end, SEED)["steps"] == STEPS
    )


def test_batch_that_does_not_divide_is_refused(
    accelerator: Accelerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Accelerator, "num_processes", 3)
    with pytest.raises(UsageError, match="batch: 4 windows do not divide among 3 processes in 1 parts each"):
        train(Broken(set(), ""), make_windows(), CONFIG, accelerator, tmp_path, lambda event: None, SEED)


def test_log_says_where_the_training_is(accelerator: Accelerator, tmp_path: Path):
    events: Events = []
    figures = train(make_objective("diffuser"), make_windows(), CONFIG, accelerator, tmp_path, events.append, SEED)
    points = curve(events)
    assert list(points) == [4, 8, 11] and points[8]["tokens"] == 8 * 4 * WINDOW and points[8]["steps"] == STEPS
    assert all(p["loss"] == pytest.approx(p["query"] + p["denoise"], rel=1e-5) for p in points.values())
    assert figures["tokens"] == STEPS * 4 * WINDOW and figures["loss"] == points[11]["loss"]


def test_budget_makes_steps():
    assert TrainConfig(tokens=1000, batch=4).steps(25) == 10
    assert TrainConfig(tokens=1, batch=4).steps(25) == 1


@pytest.mark.parametrize("field", ["tokens", "batch", "accumulate", "log_every"])
def test_nothing_to_do_is_refused(field: str):
    with pytest.raises(ValueError, match=f"{field}: wanted at least 1, got 0"):
        TrainConfig(**{field: 0})


def test_a_temperature_of_nothing_is_refused():
    with pytest.raises(ValueError, match="balance_temperature: wanted more than 0, got 0"):
        TrainConfig(balance_temperature=0)


def test_speed_is_told_against_the_machine(accelerator: Accelerator, tmp_path: Path):
    """MFU = tokens per second times FLOPs per token over the rate of a matrix product; in no curve."""
    events: Events = []
    arguments = (CONFIG, accelerator, tmp_path, events.append, SEED, None, Gauge(flops_per_token=50.0, peak=1e6))
    figures = train(make_objective("transformer"), make_windows(), *arguments)
    told = [event for event in events if event["event"] == "step"]
    assert all(event["mfu"] == pytest.approx(event["tokens_per_second"] * 50 / 1e6) for event in told)
    assert figures["tokens_per_second"] == pytest.approx(figures["tokens"] / figures["seconds"])
    assert figures["mfu"] == pytest.approx(figures["tokens_per_second"] * 50 / 1e6)
