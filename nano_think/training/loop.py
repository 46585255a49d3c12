"""The training loop: windows in, named losses down, checkpoints, a log that a parent can read.

What a step does is a function of (seed, step): which windows it takes, and what is drawn at random over them in each
process and in each part of the batch. Where and how often a training was stopped cannot change it.
"""

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nano_think.core import interrupts
from nano_think.core.config import Config
from nano_think.core.errors import DivergedError, Interrupted, UsageError
from nano_think.core.rng import branch
from nano_think.data.loader import Balance, Batches
from nano_think.training.checkpoint import load_checkpoint, save_checkpoint
from nano_think.training.cosines import gradient_cosines
from nano_think.training.layers import checkpoint_layers
from nano_think.training.objectives import Objective
from nano_think.training.optim import OptimConfig, build_optimizers, rate_at, set_rate
from nano_think.training.ranks import Ranks
from nano_think.training.validation import Validation

if TYPE_CHECKING:
    from accelerate import Accelerator

Log = Callable[[dict[str, Any]], None]
MOST_BAD_STEPS = 5
# Of the running mean of a term's size, what a step leaves; and the least size that a term is weighed by.
REMEMBERED, SMALLEST = 0.99, 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig(Config):
    """How much to train and how."""

    tokens: int = 800_000
    """Training budget (tokens)."""
    batch: int = 8
    """Windows per step, over all processes (windows)."""
    balance: Balance = "proportional"
    """How the windows are shared out among the domains: as the tokens are ("proportional"), the same number to each
    ("equal"), or in proportion to tokens^(1 / balance_temperature) ("temperature")."""
    balance_temperature: float = 2.0
    """Only for balance "temperature": 1 is proportional to the tokens, larger ones come nearer to equal (a number)."""
    optim: OptimConfig = OptimConfig()
    """Optimiser and schedule."""
    accumulate: int = 1
    """Parts in which each process computes its windows of a step, one after another: less memory, the same step up to
    rounding (parts)."""
    checkpoint_layers: bool = False
    """Keep only each layer's inputs for the backward pass and compute the rest a second time: far less memory, about a
    third more time, the same gradients."""
    validate_every: int = 0
    """Steps between two looks at the validation split; 0 never looks (steps)."""
    validate_tokens: int = 32_768
    """Tokens that each look predicts, at most the split once (tokens)."""
    restore_best: bool = True
    """End with the weights whose validation loss was the lowest, where there is one."""
    save_every: float = 30.0
    """Least time between two checkpoints (seconds)."""
    keep: int = 2
    """Checkpoints that are kept: if the newest is damaged, the one before it serves (checkpoints)."""
    log_every: int = 10
    """Steps between two lines of the log (steps)."""
    cosines: bool = False
    """Tell in each line of the log how each further term of the loss pulls beside the first: the cosine of their
    gradients over the parameters that both reach, in the first part of the batch; one more backward pass a term at
    those steps."""
    evened: float = 0.0
    """What each further term of the loss counts, whatever its own size: it is weighed by this over the running mean of
    its size, from the second step on. 0: as its own settings say (nats)."""

    def __post_init__(self) -> None:
        for name in ("tokens", "batch", "accumulate", "log_every", "validate_tokens", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: wanted at least 1, got {getattr(self, name)}")
        if not 0 <= self.evened < math.inf:
            raise ValueError(f"evened: wanted 0 or more, got {self.evened}")
        if self.validate_every < 0:
            raise ValueError(f"validate_every: wanted 0 or more, got {self.validate_every}")
        if not self.balance_temperature > 0:
            raise ValueError(f"balance_temperature: wanted more than 0, got {self.balance_temperature}")

    def steps(self, window: int) -> int:
        """Optimiser steps that the budget makes with windows of `window` tokens; at least one."""
        return max(1, round(self.tokens / (self.batch * window)))

    def whole_tokens(self, window: int) -> int:
        """The budget in whole steps (tokens)."""
        return self.steps(window) * self.batch * window


def seed_everything(seed: int) -> None:
    """Seed the global streams of Python, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


class Gauge(NamedTuple):
    """What the speed of a training is measured by."""

    flops_per_token: float
    """Floating-point operations of a step per token, forward and backward."""
    peak: float
    """FLOP/s of a large matrix product on all of the training's processes."""

    def mfu(self, tokens_per_second: float) -> float:
        """Model FLOP/s over the rate of a matrix product (model FLOPs utilisation, Chowdhery et al. 2022, app. B)."""
        return tokens_per_second * self.flops_per_token / self.peak


def check_batch(config: TrainConfig, processes: int) -> None:
    """`UsageError` where a batch cannot be shared out evenly."""
    if config.batch % (processes * config.accumulate):
        raise UsageError(
            f"batch: {config.batch} windows do not divide among {processes} processes "
            f"in {config.accumulate} parts each; change batch or accumulate"
        )


def train(
    objective: Objective, batches: Batches, config: TrainConfig, accelerator: "Accelerator", folder: Path, log: Log,
    seed: int, held_out: Batches | None = None, gauge: Gauge | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train to the end of the budget, going on from the newest checkpoint below `folder`; returns the last figures.

    held_out: what the validation loss is of, where there is one. gauge: what speed is measured by, where it is wanted.

    Of several processes each takes its rows of a batch, and the first alone writes and logs. Raises `DivergedError`
    after five steps in a row without a finite loss and gradient (single ones are left out and counted). What is saved
    is never touched by such a step.
    """
    check_batch(config, accelerator.num_processes)
    run = _Run(objective, batches, config, accelerator, folder, log, seed, held_out, gauge)
    run.resume()
    for step in range(run.step, run.steps):
        run.take(step)
    return run.finish()


class _Run:
    """One training under way: what the loop carries from step to step."""

    def __init__(
        self, objective: Objective, batches: Batches, config: TrainConfig, accelerator: "Accelerator", folder: Path,
        log: Log, seed: int, held_out: Batches | None = None, gauge: Gauge | None = None,
    ):  # fmt: skip
        self.config, self.accelerator, self.folder, self.seed = config, accelerator, folder, seed
        self.ranks = Ranks(accelerator)
        self.log = log if self.ranks.first else lambda event: None
        self.batches, self.steps = batches, config.steps(batches.window)
        self.objective = objective.to(accelerator.device)
        self.optimizers = build_optimizers(self.objective, config.optim)
        self.prepared = [accelerator.prepare(optimizer) for optimizer in self.optimizers]
        if config.checkpoint_layers:
            checkpoint_layers(self.objective)
        self.validation = Validation(objective, held_out, config.validate_tokens, accelerator) if held_out else None
        self.step, self.bad, self.skipped, self.tokens_per_step = 0, 0, 0, config.batch * batches.window
        self.recent: list[Tensor] = []
        self.last: dict[str, Any] = {}
        self.cosines: dict[str, float] = {}
        self.seconds, self.gauge = 0.0, gauge
        # Running means of the sizes of the terms, where they are evened.
        self.sizes: Tensor | None = None

    def resume(self) -> None:
        found = load_checkpoint(self.folder, self.objective, self.optimizers, self._warn)
        if found:
            self.step, state = found.step, found.state
            self.skipped, self.seconds, self.last = state["skipped"], state["seconds"], state["last"]
            self.recent = [torch.tensor(terms, device=self.accelerator.device) for terms in state["recent"]]
            if state.get("sizes"):
                self.sizes = torch.tensor(state["sizes"], device=self.accelerator.device)
            if self.validation:
                self.validation.restore(state["validation"], found.best)
            self.log({"event": "resumed", "step": self.step, "steps": self.steps})
        self.objective.train()
        self.objective.begin()
        self.started = self.saved = self.logged = time.monotonic()
        self.logged_step = self.step

    def _warn(self, message: str) -> None:
        self.log({"event": "warning", "message": message})

    def take(self, step: int) -> None:
        set_rate(self.optimizers, rate_at(step, self.steps, self.config.optim))
        terms = self._differentiate(step)
        loss = self._sum(torch.stack(list(terms.values())))
        norm = self.accelerator.clip_grad_norm_(self.objective.parameters(), self.config.optim.clip or math.inf)
        if self._update(step, loss, norm):
            self.recent.append(torch.stack([loss, *terms.values()]).float())
            self._measure(torch.stack(list(terms.values())).float())
        self.step = step + 1
        if self._logs(self.step):
            self._report(["loss", *terms])
        if self.validation and (self.step % self.config.validate_every == 0 or self.step == self.steps):
            place = {"step": self.step, "tokens": self.step * self.tokens_per_step}
            self.log({"event": "validation", **place, "loss": self.validation.look(self.step)})
        if self.step < self.steps:
            stop = self.ranks.largest(interrupts.requested())
            if time.monotonic() - self.saved > self.config.save_every or stop:
                self._save()
            if stop:
                raise Interrupted(stop)

    def _logs(self, step: int) -> bool:
        """Whether there is a line in the log after so many steps."""
        return step % self.config.log_every == 0 or step == self.steps

    def _differentiate(self, step: int) -> dict[str, Tensor]:
        """Leave the gradient of the mean loss over the whole batch, of all processes, in the parameters; the terms."""
        windows = torch.from_numpy(self.batches.batch(step, self.ranks.rank, self.ranks.world))
        parts = windows.to(self.accelerator.device).chunk(self.config.accumulate)
        counts = [self.objective.count_predicted(part) for part in parts]
        whole = self.ranks.sum(torch.stack(counts).sum()).clamp_min(1)
        found = []
        for index, (part, count) in enumerate(zip(parts, counts, strict=True)):
            torch.manual_seed(branch(self.seed, "draws", step, self.ranks.rank, index))
            with self.accelerator.autocast():
                terms = self.objective(part, step / self.steps)
            if self.config.cosines and index == 0 and self._logs(step + 1):
                found_cosines = gradient_cosines(terms, self.objective.parameters())
                self.cosines = {f"cosine.{name}": value for name, value in found_cosines.items()}
            found.append(torch.stack(list(terms.values())) * (count / whole))
            self.accelerator.backward(self._sum(found[-1]))
        self.ranks.sum_gradients(self.objective.parameters())
        total = self.ranks.sum(torch.stack(found).detach().sum(dim=0))
        return dict(zip(terms, total.unbind(), strict=True))

    def _sum(self, terms_N: Tensor) -> Tensor:
        """The loss: the sum of its terms; where they are evened, all but the first weighed by their sizes so far."""
        if self.sizes is None:
            return terms_N.sum()
        return terms_N[0] + (terms_N[1:] * (self.config.evened / self.sizes[1:].clamp_min(SMALLEST))).sum()

    def _measure(self, terms_N: Tensor) -> None:
        """Let the sizes of these terms count in their running means."""
        if self.config.evened:
            size_N = terms_N.abs()
            self.sizes = size_N if self.sizes is None else REMEMBERED * self.sizes + (1 - REMEMBERED) * size_N

    def _update(self, step: int, loss: Tensor, norm: Tensor) -> bool:
        """Take the step unless the numbers are broken (one NaN would make every weight NaN for good); was it taken?"""
        taken = bool(torch.isfinite(loss) and torch.isfinite(norm))
        if taken:
            self.bad = 0
            for optimizer in self.prepared:
                optimizer.step()
        else:
            self.bad, self.skipped = self.bad + 1, self.skipped + 1
            self._warn(f"step {step} left out: its loss or gradient is not finite")
        for optimizer in self.prepared:
            optimizer.zero_grad()
        if self.bad >= MOST_BAD_STEPS:
            raise DivergedError(
                f"step {step}: no finite loss or gradient in {self.bad} steps in a row (last loss {loss.item()}); "
                "lower optim.matrix_rate and optim.vector_rate"
            )
        return taken

    def _report(self, names: list[str]) -> None:
        now = time.monotonic()
        speed = (self.step - self.logged_step) * self.tokens_per_step / max(now - self.logged, 1e-9)
        if self.recent:
            self.last = dict(zip(names, torch.stack(self.recent).mean(dim=0).tolist(), strict=True))
        self.recent, self.logged, self.logged_step = [], now, self.step
        self.log({
            "event": "step", "step": self.step, "steps": self.steps, "tokens": self.step * self.tokens_per_step,
            "tokens_per_second": speed, **self._mfu(speed),
            "rate": rate_at(self.step - 1, self.steps, self.config.optim), **self.last, **self.cosines,
        })  # fmt: skip

    def _mfu(self, tokens_per_second: float) -> dict[str, float]:
        return {"mfu": self.gauge.mfu(tokens_per_second)} if self.gauge else {}

    def _save(self) -> None:
        self.saved = time.monotonic()
        if self.ranks.first:
            state = {
                "skipped": self.skipped, "seconds": self.seconds + self.saved - self.started,
                "last": self.last, "recent": [terms.tolist() for terms in self.recent],
            }  # fmt: skip
            state |= {"validation": self.validation.figures} if self.validation else {}
            state |= {} if self.sizes is None else {"sizes": self.sizes.tolist()}
            best = self.validation.best if self.validation else None
            save_checkpoint(self.folder, self.step, self.objective, self.optimizers, state, self.config.keep, best)
            self.log({"event": "saved", "step": self.step})

    def finish(self) -> dict[str, Any]:
        self.accelerator.wait_for_everyone()
        # Whatever stops the stage between here and its manifest, the training is done and stays done.
        self._save()
        seen = self.validation.figures if self.validation else {}
        if self.validation and self.validation.best and self.config.restore_best:
            self.objective.load_state_dict(self.validation.best)
        tokens, seconds = self.steps * self.tokens_per_step, self.seconds + time.monotonic() - self.started
        speed = tokens / max(seconds, 1e-9)
        return {
            "steps": self.steps, "tokens": tokens, "skipped_steps": self.skipped, "seconds": seconds,
            "tokens_per_second": speed, **self._mfu(speed), **self.last, **seen,
        }  # fmt: skip
