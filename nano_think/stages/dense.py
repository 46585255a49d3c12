"""What a mixture is made of -> the dense control: one transformer of the same parameters and training FLOPs."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nano_think.core.config import parse, to_dict
from nano_think.core.errors import ArtifactError, UsageError
from nano_think.core.files import read_json, write_json
from nano_think.core.rng import branch
from nano_think.experts import Expert, build_expert, count_parameters
from nano_think.experts.transformer import TransformerConfig
from nano_think.heads.language import LanguageHead
from nano_think.models.checkpoint import build_mixture
from nano_think.models.dense import KIND, match_parameters, match_tokens
from nano_think.models.embedder import load_head
from nano_think.nn.weights import fill, load_weights, save_weights
from nano_think.stages.artifact import Artifact
from nano_think.stages.mixture import JOINT, RouterJob, joint_training_of, shape_of, training_of
from nano_think.stages.pretrain import Pretrain, PretrainJob
from nano_think.stages.space import Job, expert_modules
from nano_think.stages.stage import Inputs
from nano_think.stages.training import Trainer, TrainingStage
from nano_think.training.loop import TrainConfig, seed_everything
from nano_think.training.objectives import Objective
from nano_think.training.objectives.expert import ExpertObjective
from nano_think.training.objectives.router import RouterObjective

WEIGHTS, SHAPE = "dense.safetensors", "config.json"
SPLITS = "train+router"


@dataclass(frozen=True, kw_only=True, slots=True)
class DenseJob(Job):
    """The dense control's configuration: that of the mixture it stands against."""

    experts: tuple[PretrainJob, ...]
    router: RouterJob
    base: TransformerConfig

    @property
    def train(self) -> TrainConfig:
        """How the experts are trained."""
        return self.experts[0].train


class Dense(TrainingStage):
    """Train the dense control under the frozen head, as an expert is trained, on all text that the mixture has seen.

    What it may cost is counted on the mixture's parts as they are built, untrained, so that it can be trained beside
    them. The embedding is both models' own and counts for neither.
    """

    name = "dense"
    config: DenseJob
    Config = DenseJob

    @classmethod
    def read_config(cls, values: dict[str, Any]) -> DenseJob:
        experts = [Pretrain.read_config(one) for one in values["experts"]]
        return parse(DenseJob, values | {"experts": experts}, "job")

    def modules(self) -> list[str]:
        kinds = (KIND, *(one.kind for one in self.config.experts))
        return [__name__, "nano_think.stages.mixture", "nano_think.stages.training", *expert_modules(*kinds)]

    def memory(self, inputs: Inputs) -> int:
        """That of the experts together, whose size it has."""
        return sum(Pretrain(one).memory(inputs) for one in self.config.experts)

    def fit(self, inputs: Inputs, out: Path, trainer: Trainer) -> dict[str, Any]:
        job, tokens, head = self.config, inputs["tokens"], load_head(inputs["embedding"].path)
        cost = mixture_cost(job, tokens, head, trainer)
        shape = match_parameters(cost["parameters"], job.space.width, job.base)
        seed_everything(branch(job.seed, self.name))
        expert = build_expert(KIND, shape, job.space.width)
        objective = ExpertObjective(expert, head, tokens.summary["start_token"])
        per_token = trainer.flops_per_token(objective, tokens, SPLITS, job.train)
        budget = match_tokens(cost["flops"], per_token, job.train.batch * job.space.window)
        summary = trainer.train(objective, tokens, SPLITS, replace(job.train, tokens=budget), self.name)
        save_weights(out / WEIGHTS, expert.state_dict())
        write_json(out / SHAPE, {"width": job.space.width, "shape": to_dict(shape)})
        about = {"parameters": count_parameters(expert), "embedding": inputs["embedding"].digest}
        return summary | about | {"shape": to_dict(shape), "mixture": cost}


def mixture_cost(job: DenseJob, tokens: Artifact, head: LanguageHead, trainer: Trainer) -> dict[str, Any]:
    """Parameters that the experts and the router train, and the FLOPs that their trainings take, together."""
    start, window, parameters, flops = tokens.summary["start_token"], job.space.window, 0, 0.0
    for one in job.experts:
        expert = build_expert(one.kind, one.expert, job.space.width)
        parameters += count_parameters(expert)
        objective: Objective = ExpertObjective(expert, head, start)
        flops += trainer.flops_per_token(objective, tokens, "train", one.train) * one.train.whole_tokens(window)
    model = build_mixture(shape_of(job.router, tokens, {one.name: one.expert for one in job.experts}), head)
    settings = job.router.router
    objective = RouterObjective(model, settings.expert_dropout, settings.entropy)
    training = training_of(job.router, tokens)
    flops += trainer.flops_per_token(objective, tokens, "router", training) * training.whole_tokens(window)
    if settings.joint_tokens:
        model.thaw()
        training = joint_training_of(job.router)
        flops += trainer.flops_per_token(objective, tokens, JOINT, training) * training.whole_tokens(window)
    return {"parameters": parameters + count_parameters(model.router), "flops": flops}


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
