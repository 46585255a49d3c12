"""Tokens -> the shared token table: trained in a small transformer, centred, normalised, frozen."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nano_think.core.config import Config
from nano_think.core.rng import branch
from nano_think.data.tokens import unigram
from nano_think.experts import count_parameters
from nano_think.models.embedder import Embedder, EmbedderConfig, save_head
from nano_think.stages.space import Job
from nano_think.stages.stage import Inputs
from nano_think.stages.training import Trainer, TrainingStage
from nano_think.training.loop import TrainConfig, seed_everything
from nano_think.training.objectives.embedding import EmbedderObjective


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingConfig(Config):
    """The shared token table: worth more bits per byte than all routing, so it is trained well and first."""

    model: EmbedderConfig = EmbedderConfig()
    """The transformer that it is trained in."""
    train: TrainConfig = TrainConfig(tokens=300_000)
    """Its training."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingJob(Job):
    """The embedding stage's configuration."""

    embedding: EmbeddingConfig


class Embedding(TrainingStage):
    """Train the token table."""

    name = "embedding"
    config: EmbeddingJob
    Config = EmbeddingJob

    def fit(self, inputs: Inputs, out: Path, trainer: Trainer) -> dict[str, Any]:
        job, tokens = self.config, inputs["tokens"]
        seed_everything(branch(job.seed, self.name))
        about = tokens.summary
        bias_V = torch.from_numpy(unigram(tokens.path, "train", about["vocab_size"]))
        model = Embedder(job.embedding.model, job.space.width, bias_V)
        objective = EmbedderObjective(model, about["start_token"])
        summary = trainer.train(objective, tokens, "train", job.embedding.train, self.name)
        head = model.head()
        save_head(out, head)
        return summary | {"parameters": count_parameters(model), "table": head.table.numel()}
