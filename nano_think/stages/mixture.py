"""What a mixture is told, and what follows from that: known before any of it is trained, and so to its control too."""

import math
from dataclasses import dataclass, replace

from nano_think.core.config import Config
from nano_think.data.tokens import TokenSet
from nano_think.experts import ExpertConfig
from nano_think.models.checkpoint import ModelShape
from nano_think.models.think import RouterConfig
from nano_think.stages.artifact import Artifact
from nano_think.stages.space import Job
from nano_think.training.loop import TrainConfig

JOINT = "train+router"
"""The splits that experts and router are trained on together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RouterTrainConfig(Config):
    """The router and its training, on documents that no expert has seen."""

    model: RouterConfig = RouterConfig()
    """Its shape."""
    train: TrainConfig = TrainConfig(tokens=200_000)
    """Its training; it never reads the routing split more than `max_epochs` times."""
    max_epochs: float = 2.0
    """Most times that the routing split is read, above 0 (epochs)."""
    expert_dropout: float = 0.1
    """Chance that a window goes without one of the experts while training (0 to 1)."""
    entropy: float = 0.01
    """Bonus for the entropy of the weights at the start; it fades within the first fifth of the training (nats)."""
    joint_tokens: int = 0
    """Tokens of a last training in which the experts learn together with the router, on both their splits; 0 leaves the
    experts as they are (tokens)."""
    keep_logits: bool = True
    """Keep the experts' logits too, some thirty times the bytes at the size of micro, so that a step does without the
    head: where hidden states are weighed, by a CPU with compiled kernels, every window comes again and there is room.
    The losses are the same but for rounding (docs/LOG.md)."""
    cache_bytes: int = 4_000_000_000
    """Most room on the disk for what the experts make of the routing split, which then is computed once and read back
    in later epochs; 0 computes it at every step (bytes)."""

    def __post_init__(self) -> None:
        if not 0 < self.max_epochs < math.inf:
            raise ValueError(f"max_epochs: wanted a number above 0, got {self.max_epochs}")
        if not 0 <= self.expert_dropout <= 1:
            raise ValueError(f"expert_dropout: wanted a chance from 0 to 1, got {self.expert_dropout}")
        if not 0 <= self.entropy < math.inf:
            raise ValueError(f"entropy: wanted 0 or more, got {self.entropy}")
        self.at_least(0, "joint_tokens", "cache_bytes")


@dataclass(frozen=True, kw_only=True, slots=True)
class RouterJob(Job):
    """The router stage's configuration."""

    router: RouterTrainConfig
    members: tuple[str, ...]
    name: str = "router"
    """"router", or what a router is called that is trained to be compared with it."""


def training_of(job: RouterJob, tokens: Artifact) -> TrainConfig:
    """The router's training, no longer than the routing split allows."""
    most = int(job.router.max_epochs * len(TokenSet.open(tokens.path, "router")))
    return replace(job.router.train, tokens=min(job.router.train.tokens, max(1, most)))


def joint_training_of(job: RouterJob) -> TrainConfig:
    """The last training of experts and router together, by the router's settings."""
    return replace(job.router.train, tokens=job.router.joint_tokens)


def shape_of(job: RouterJob, tokens: Artifact, experts: dict[str, ExpertConfig]) -> ModelShape:
    """What fixes the tensors of the mixture."""
    about = tokens.summary
    return ModelShape(
        width=job.space.width, vocabulary=about["vocab_size"], window=job.space.window,
        start_token=about["start_token"], router=job.router.model, experts=experts,
    )  # fmt: skip
