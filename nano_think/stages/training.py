"""Stages that train: each runs in a process of its own, started by `accelerate launch`, and resumes where it was.

Accelerate's state is one per process, and so is torch's seed: two trainings in one process would spoil each other.
"""

import contextlib
import json
import sys
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch

from nano_think.core.config import parse, to_dict
from nano_think.core.device import pick_compile, pick_device, pick_dtype, set_up
from nano_think.core.files import write_json
from nano_think.core.process import accelerate_command, run_child, training_environment
from nano_think.core.progress import format_seconds
from nano_think.core.rng import branch
from nano_think.core.slots import visible
from nano_think.data.loader import Batches, Lean, open_windows
from nano_think.data.tokens import TokenSet
from nano_think.nn.native import kernels
from nano_think.stages.artifact import Artifact
from nano_think.stages.modules import tell_modules
from nano_think.stages.space import Job
from nano_think.stages.stage import WORK, Context, Inputs, Stage
from nano_think.stages.tracking import Tracker, follow
from nano_think.training.estimate import estimate, format_bytes, refuse_too_large, try_step
from nano_think.training.flops import count_flops
from nano_think.training.layers import compile_layers
from nano_think.training.loop import Gauge, Log, TrainConfig, check_batch, train
from nano_think.training.machine import finish, free_memory, gemm_rate
from nano_think.training.objectives import Objective

CURVE, VALIDATION = "curve.json", "validation.json"
TIMING = ("event", "tokens_per_second", "mfu")


class TrainingStage(Stage):
    """A stage whose work is one training. `build` starts the process; the process calls `fit`."""

    config: Job
    Config: ClassVar[type[Job]]

    @classmethod
    def read_config(cls, values: dict[str, Any]) -> Job:
        """The configuration that `to_dict` wrote: how the child gets it."""
        return parse(cls.Config, values, "job")

    def modules(self) -> list[str]:
        return [*super().modules(), __name__]

    def fingerprint(self) -> Any:
        """The bits of a training belong to one version of torch and, on a CPU, to what computes its layers."""
        kernel = {"kernels": kernels().there} if self.config.compute.device == "cpu" else {}
        return {"torch": torch.__version__, **kernel}

    @contextlib.contextmanager
    def tracked(self, tracker: Tracker) -> Iterator[Tracker]:
        """For the block, where the training's figures go: here to the pipeline's run, under the stage's name."""
        with tracker.part(f"{self.name}/") as run:
            yield run

    def memory(self, inputs: Inputs) -> int:
        """About what the training needs of a device, before it is begun (bytes); all that there is, unless the stage
        knows better.
        """
        return sys.maxsize

    @abstractmethod
    def fit(self, inputs: Inputs, out: Path, trainer: "Trainer") -> dict[str, Any]:
        """In the child: train, write the artifact's files to `out`, return the summary."""

    def build(self, inputs: Inputs, out: Path, context: Context) -> dict[str, Any]:
        work = out / WORK
        work.mkdir(exist_ok=True)
        paths = {name: str(artifact.path.resolve()) for name, artifact in inputs.items()}
        kind = {"module": type(self).__module__, "stage": type(self).__name__}
        job = {**kind, "config": to_dict(self.config), "inputs": paths}
        write_json(work / "job.json", job | {"modules": tell_modules(*self.modules())})
        compute = self.config.compute
        command = accelerate_command("nano_think.stages.worker", str(out.resolve()), processes=compute.processes)
        with context.slots.hold(lambda: self.memory(inputs)) as device, self.tracked(context.tracker) as run:
            child = training_environment(compute.threads_per_process, visible(device, context.slots.devices))

            def listen(event: dict[str, Any]) -> None:
                context.progress.event(self.name, event)
                follow(run, event)

            run_child(self.name, command, child, listen)
            summary = json.loads((work / "summary.json").read_text(encoding="utf-8"))
            run.metrics({f"final/{name}": value for name, value in summary["training"].items() if value is not None})
        return summary


class NothingLeft(Exception):
    """Ends every process of a training but the first when it is trained: the first one writes what all of them have."""


class Trainer:
    """What a stage's `fit` trains with: seeded, set up, logging to the parent and to the curve."""

    def __init__(self, job: Job, work: Path, log: Log):
        # Slow to import, and the process that asks for trainings does none itself.
        from accelerate import Accelerator

        self.job, self.work, self._log = job, work, log
        device = pick_device(job.compute.device)
        dtype = pick_dtype(job.compute.dtype, device)
        self.accelerator = Accelerator(
            cpu=device.type == "cpu", mixed_precision="bf16" if dtype == "bfloat16" else "no"
        )
        self.dtype = dtype
        self.compute = set_up(job.compute, self.accelerator.device)
        self.needed = 0

    def windows(
        self, tokens: Artifact, split: str, config: TrainConfig, branch_name: str, recut: bool = True,
        lean: Lean | None = None,
    ) -> Batches:  # fmt: skip
        """The windows that `train` trains on."""
        seed, text = branch(self.job.seed, branch_name, "windows"), TokenSet.open(tokens.path, split)
        window, balance = self.job.space.window, config.balance
        return open_windows(text, window, config.batch, seed, balance, config.balance_temperature, recut, lean)

    def train(
        self, objective: Objective, tokens: Artifact, split: str, config: TrainConfig, branch_name: str,
        recut: bool = True, lean: Lean | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Train on windows of a split of `tokens`; the summary of the training.

        recut: whether each epoch cuts the text anew; lean: to which domains it leans, if to any. Returns in the first
        process alone, and raises `NothingLeft` in the others.
        """
        seed, window = branch(self.job.seed, branch_name, "windows"), self.job.space.window
        windows, held_out = self.windows(tokens, split, config, branch_name, recut, lean), None
        if config.validate_every:
            held_out = open_windows(TokenSet.open(tokens.path, "validation"), window, config.batch, seed)
        text = len(TokenSet.open(tokens.path, split))
        return self.train_on(objective, windows, held_out, text, config, branch_name)

    def train_on(
        self, objective: Objective, windows: Batches, held_out: Batches | None, text: int, config: TrainConfig,
        branch_name: str,
    ) -> dict[str, Any]:  # fmt: skip
        """As `train`, on any windows; text: how many tokens they are cut from."""
        per_token = count_flops(objective, windows, self.accelerator)
        gauge: Gauge | None = self._look_ahead(objective, windows, config)
        gauge = None if objective.steps_differ else gauge
        draws = branch(self.job.seed, branch_name, "draws")
        figures = train(objective, windows, config, self.accelerator, self.work, self.log, draws, held_out, gauge)
        self.accelerator.end_training()
        if not self.accelerator.is_main_process:
            raise NothingLeft
        epochs = {"epochs": round(figures["tokens"] / max(1, text), 3)}
        passes = {name: round(count, 3) for name, count in windows.passes(figures["steps"]).items()}
        flops = {"flops": per_token * figures["tokens"]}
        about = {"passes": passes, "compute": self.compute, "memory_bytes": self.needed}
        return {"training": figures, **epochs, **flops, **about}

    def further(self, name: str) -> "Trainer":
        """What a second training of the same stage is trained with: its checkpoints and its curve are its own."""
        work = self.work / name
        work.mkdir(exist_ok=True)
        return Trainer(self.job, work, self._log)

    def flops_per_token(self, objective: Objective, tokens: Artifact, split: str, config: TrainConfig) -> float:
        """What `train` will count per token."""
        windows = open_windows(TokenSet.open(tokens.path, split), self.job.space.window, config.batch, seed=0)
        return count_flops(objective, windows, self.accelerator)

    def _look_ahead(self, objective: Objective, windows: Batches, config: TrainConfig) -> Gauge:
        """Tell how the training is computed and what it will need, and refuse it if that is not there; what its speed
        is measured by.
        """
        accelerator, device, world = self.accelerator, self.accelerator.device, self.accelerator.num_processes
        check_batch(config, world)
        objective.to(device)
        part_BT1 = torch.from_numpy(windows.batch(0, 0, world * config.accumulate))
        needed = estimate(objective, part_BT1[0], len(part_BT1), config.optim, config.checkpoint_layers, accelerator)
        sharing, free = world if device.type == "cpu" else 1, free_memory(device)
        refuse_too_large(needed, sharing, free)
        self.needed = sharing * needed.bytes
        trial = partial(try_step, objective, part_BT1, accelerator)
        compiled = self._compile(objective, trial)
        parts = config.steps(windows.window) * config.accumulate
        gauge = Gauge(needed.flops_per_token, world * gemm_rate(device, getattr(torch, self.dtype)))
        self.compute |= {
            "compile": compiled,
            "memory": f"{format_bytes(self.needed)} of {format_bytes(free) if free else 'unknown'} free",
            "operations": f"{gauge.flops_per_token / 1e6:,.1f} MFLOP per token",
            "product": f"{gauge.peak / 1e9:,.0f} GFLOP/s",
            "expected": ("at most " if objective.steps_differ else "") + format_seconds(parts * self._time(trial)),
        }  # fmt: skip
        if device.type == "cpu":
            self.compute["kernels"] = kernels().reason
        if accelerator.is_main_process:
            self._log({"event": "compute", **self.compute})
        return gauge

    def _compile(self, objective: Objective, trial: Callable[[], None]) -> str:
        """Compile the layers if that is wanted; how it went."""
        if self.job.compute.compile == "on":
            return compile_layers(objective, trial)
        usual = pick_compile("auto", self.accelerator.device) == "off"
        return "off (takes longer than it saves here)" if usual else "off (as set)"

    def _time(self, trial: Callable[[], None]) -> float:
        """Seconds of a trial on the device."""
        started = time.monotonic()
        trial()
        finish(self.accelerator.device)
        return time.monotonic() - started

    def log(self, event: dict[str, Any]) -> None:
        name = {"step": CURVE, "validation": VALIDATION}.get(event["event"])
        if name:
            with (self.work / f"{name}l").open("a", encoding="utf-8") as file:
                file.write(json.dumps({name: value for name, value in event.items() if name not in TIMING}) + "\n")
        self._log(event)

    def write_curves(self, out: Path) -> None:
        """The losses as files of the artifact: steps that were taken twice around a crash count once."""
        for name in (CURVE, VALIDATION):
            points: dict[int, Any] = {}
            path = self.work / f"{name}l"
            for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
                try:
                    point = json.loads(line)
                except ValueError:  # The line that a crash cut off.
                    continue
                points[point["step"]] = point
            if points or name == CURVE:
                write_json(out / name, [points[step] for step in sorted(points)])


def read_curve(artifact: Artifact) -> list[Mapping[str, Any]]:
    """The points of a training: step, tokens, rate, loss and its terms."""
    path = artifact.path / CURVE
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
