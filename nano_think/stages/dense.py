"""A finished mixture -> the dense control: one transformer of the same parameters and training FLOPs."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nano_think.core.config import parse, to_dict
from nano_think.core.errors import ArtifactError, UsageError
from nano_think.core.files import read_json, write_json
from nano_think.core.rng import branch
from nano_think.experts import Expert, build_expert, count_parameters
from nano_think.experts.transformer import TransformerConfig
from nano_think.models.dense import KIND, match_parameters, match_tokens
from nano_think.models.embedder import load_head
from nano_think.nn.weights import fill, load_weights, save_weights
from nano_think.stages.artifact import Artifact
from nano_think.stages.space import Job, expert_modules
from nano_think.stages.stage import Inputs
from nano_think.stages.training import Trainer, TrainingStage
from nano_think.training.loop import TrainConfig, seed_everything
from nano_think.training.objectives.expert import ExpertObjective

WEIGHTS, SHAPE = "dense.safetensors", "config.json"
SPLITS = "train+router"


@dataclass(frozen=True, kw_only=True, slots=True)
class DenseJob(Job):
    """The dense control's configuration: what it grows from, and how the experts that it stands against are trained."""

    members: tuple[str, ...]
    base: TransformerConfig
    train: TrainConfig


class Dense(TrainingStage):
    """Train the dense control under the frozen head, as an expert is trained, on all text that the mixture has seen.

    What it may cost is read off the trainings of the experts and the router. The embedding is both models' own and
    counts for neither.
    """

    name = "dense"
    config: DenseJob
    Config = DenseJob

    def modules(self) -> list[str]:
        return [__name__, "nano_think.stages.training", *expert_modules(KIND)]

    def fit(self, inputs: Inputs, out: Path, trainer: Trainer) -> dict[str, Any]:
        job, tokens, cost = self.config, inputs["tokens"], mixture_cost(inputs, self.config.members)
        shape = match_parameters(cost["parameters"], job.space.width, job.base)
        seed_everything(branch(job.seed, self.name))
        expert = build_expert(KIND, shape, job.space.width)
        objective = ExpertObjective(expert, load_head(inputs["embedding"].path), tokens.summary["start_token"])
        per_token = trainer.flops_per_token(objective, tokens, SPLITS, job.train)
        budget = match_tokens(cost["flops"], per_token, job.train.batch * job.space.window)
        summary = trainer.train(objective, tokens, SPLITS, replace(job.train, tokens=budget), self.name)
        save_weights(out / WEIGHTS, expert.state_dict())
        write_json(out / SHAPE, {"width": job.space.width, "shape": to_dict(shape)})
        about = {"parameters": count_parameters(expert), "embedding": inputs["embedding"].digest}
        return summary | about | {"shape": to_dict(shape), "mixture": cost}


def mixture_cost(inputs: Inputs, members: tuple[str, ...]) -> dict[str, Any]:
    """Parameters that were trained and FLOPs that it took, of the experts and the router together."""
    sizes = inputs["router"].summary["parameters"]
    return {
        "parameters": sum(sizes[name] for name in (*members, "router")),
        "flops": sum(inputs[name].summary["flops"] for name in (*members, "router")),
    }


def load_dense(artifact: Artifact) -> Expert:
    """The trained control, in evaluation mode; `ArtifactError` names what is missing or does not fit."""
    path = artifact.path / SHAPE
    values = read_json(path)
    try:
        expert = build_expert(KIND, parse(TransformerConfig, values["shape"], str(path)), values["width"])
    except (KeyError, TypeError, UsageError) as error:
        raise ArtifactError(f"{path}: not the shape of a dense control ({error}); run the pipeline again") from None
    fill(expert, load_weights(artifact.path / WEIGHTS), artifact.path / WEIGHTS)
    return expert.eval()
