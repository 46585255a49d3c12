"""Tokens and the token table -> one trained expert."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pydantic

from nano_think.core.config import flatten, parse, to_dict
from nano_think.core.rng import branch
from nano_think.data.loader import Lean
from nano_think.experts import EXPERTS, ExpertConfig, build_expert, count_parameters
from nano_think.models.embedder import load_head
from nano_think.nn.weights import save_weights
from nano_think.stages.space import Job, expert_modules
from nano_think.stages.stage import Inputs
from nano_think.stages.tracking import Tracker
from nano_think.stages.training import Trainer, TrainingStage
from nano_think.training.estimate import memory_needed
from nano_think.training.loop import TrainConfig, seed_everything
from nano_think.training.objectives.expert import ExpertObjective

WEIGHTS = "expert.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainConfig(TrainConfig):
    """How each expert is trained: the same for all."""

    order: Literal["same", "own"] = "same"
    """Whether all experts read the same windows in the same order, or each has an order of its own and so, within less
    than an epoch, other windows of the same text: experts that err differently."""
    lean: float = 1.0
    """How many times its share in the text an expert reads of the domains that it leans to: each expert to domains of
    its own, the largest to the first (above 0; 1 is none)."""

    def __post_init__(self) -> None:
        TrainConfig.__post_init__(self)
        if not 0 < self.lean < float("inf"):
            raise ValueError(f"lean: wanted a number above 0, got {self.lean}")


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainJob(Job):
    """One expert's configuration."""

    kind: str
    expert: pydantic.SerializeAsAny[ExpertConfig]
    train: PretrainConfig
    lean: Lean | None = None
    number: int = 1
    """1, or of a further expert of its kind, which is another by its draws alone, 2 and so on."""

    @property
    def name(self) -> str:
        """What the expert is called."""
        return self.kind if self.number == 1 else f"{self.kind}_{self.number}"

    @property
    def branch_name(self) -> str:
        """The branch of the seed that windows and draws come from."""
        return "experts" if self.train.order == "same" else f"experts, {self.name}"


class Pretrain(TrainingStage):
    """Train one expert under the frozen head. It depends on nothing of the other experts."""

    config: PretrainJob
    Config = PretrainJob

    def __init__(self, config: PretrainJob):
        super().__init__(config)
        self.name = config.name

    @classmethod
    def read_config(cls, values: dict[str, Any]) -> PretrainJob:
        expert = parse(EXPERTS[values["kind"]].Config, values["expert"], "job")
        return parse(PretrainJob, values | {"expert": expert}, "job")

    @contextlib.contextmanager
    def tracked(self, tracker: Tracker) -> Iterator[Tracker]:
        """A run of its own, so that experts can be compared."""
        with tracker.child(self.name) as run:
            run.params(dict(flatten(to_dict(self.config))))
            yield run

    def modules(self) -> list[str]:
        return [__name__, "nano_think.stages.training", *expert_modules(self.config.kind)]

    def memory(self, inputs: Inputs) -> int:
        job = self.config
        head, start = load_head(inputs["embedding"].path), inputs["tokens"].summary["start_token"]
        objective = ExpertObjective(build_expert(job.kind, job.expert, job.space.width), head, start)
        windows = job.train.batch / job.train.accumulate
        return memory_needed(objective, job.space.window, windows, job.train.optim, job.train.checkpoint_layers)

    def fit(self, inputs: Inputs, out: Path, trainer: Trainer) -> dict[str, Any]:
        job, tokens, embedding = self.config, inputs["tokens"], inputs["embedding"]
        seed_everything(branch(job.seed, "experts", job.name))
        expert = build_expert(job.kind, job.expert, job.space.width)
        objective = ExpertObjective(expert, load_head(embedding.path), tokens.summary["start_token"])
        summary = trainer.train(objective, tokens, "train", job.train, job.branch_name, lean=job.lean)
        save_weights(out / WEIGHTS, expert.state_dict())
        return summary | {"parameters": count_parameters(expert), "embedding": embedding.digest}
