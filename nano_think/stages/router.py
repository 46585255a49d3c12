"""Frozen experts and the routing split -> the mixture: the model that people talk to."""

import shutil
from pathlib import Path
from typing import Any

import torch

from nano_think.core.errors import ArtifactError
from nano_think.core.rng import branch
from nano_think.experts import count_parameters
from nano_think.models.checkpoint import ModelShape, build_mixture, save_mixture
from nano_think.models.embedder import load_head
from nano_think.models.think import NanoThink
from nano_think.nn.native import have_kernel
from nano_think.nn.weights import fill, load_weights
from nano_think.stages.artifact import Artifact
from nano_think.stages.mixture import JOINT, RouterJob, joint_training_of, shape_of, training_of
from nano_think.stages.pretrain import WEIGHTS, Pretrain
from nano_think.stages.space import expert_modules
from nano_think.stages.stage import Inputs
from nano_think.stages.training import Trainer, TrainingStage
from nano_think.training.estimate import format_bytes
from nano_think.training.loop import TrainConfig, check_batch, seed_everything
from nano_think.training.objectives.router import RouterObjective
from nano_think.training.streams import LEAST_REPEATS_OF_LOGITS, WindowCache, bytes_per_window, digest_of, why_not

STREAMS = "streams"
# Of the seed: routers that are compared begin alike and read the same windows.
BRANCH = "router"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


class RouterStage(TrainingStage):
    """Train the router over the frozen experts; the artifact is the whole mixture, with its tokenizer."""

    config: RouterJob
    Config = RouterJob

    def __init__(self, config: RouterJob):
        super().__init__(config)
        self.name = config.name

    def modules(self) -> list[str]:
        return [
            __name__,
            "nano_think.stages.mixture",
            "nano_think.stages.training",
            *expert_modules(*self.config.members),
        ]

    def fit(self, inputs: Inputs, out: Path, trainer: Trainer) -> dict[str, Any]:
        job, tokens = self.config, inputs["tokens"]
        seed_everything(branch(job.seed, BRANCH))
        model, shape = assemble(job, inputs)
        objective = RouterObjective(model, job.router.expert_dropout, job.router.entropy)
        config = training_of(job, tokens)
        chosen = self._remember(objective, tokens, config, trainer)
        trainer.compute["experts"] = chosen
        summary = trainer.train(objective, tokens, "router", config, BRANCH, recut=False)
        summary |= {"experts": _told(objective.cache, chosen)}
        if job.router.joint_tokens:
            summary = self._train_jointly(objective, tokens, trainer, summary)
        save_mixture(out, model, shape)
        for name in TOKENIZER_FILES:
            shutil.copyfile(inputs["tokenizer"].path / name, out / name)
        parts = {name: count_parameters(expert) for name, expert in model.experts.items()}
        table = {"token table": model.head.table.numel(), "unigram bias": model.head.bias.numel()}
        sizes = {**table, **parts, "router": count_parameters(model.router)}
        return summary | {"parameters": sizes | {"whole": sum(sizes.values())}}

    def _train_jointly(
        self, objective: RouterObjective, tokens: Artifact, trainer: Trainer, alone: dict[str, Any]
    ) -> dict[str, Any]:
        """Let the experts learn with their router; the summary of both trainings."""
        objective.forget()
        objective.model.thaw()
        config = joint_training_of(self.config)
        together = trainer.further("joint").train(objective, tokens, JOINT, config, f"{BRANCH}, joint")
        told = {name: together[name] for name in ("training", "epochs", "flops")}
        return alone | {"flops": alone["flops"] + together["flops"], "joint": told}

    def _remember(self, objective: RouterObjective, tokens: Artifact, config: TrainConfig, trainer: Trainer) -> str:
        """Keep what the experts make of the windows where that is worth it; what was chosen, and why.

        Their logits too where that is asked for, a kernel reads them, every window comes again and there is room.
        """
        windows = trainer.windows(tokens, "router", config, BRANCH, recut=False)
        accelerator, folder = trainer.accelerator, trainer.work / STREAMS
        check_batch(config, accelerator.num_processes)
        objective.to(accelerator.device)
        part_BT1 = torch.from_numpy(windows.batch(0, 0, accelerator.num_processes * config.accumulate))
        with_logits = self.config.router.keep_logits and objective.model.fusion == "hidden"
        with_logits = with_logits and have_kernel(objective.model.head.bias)
        with torch.no_grad(), accelerator.autocast():
            parts = objective.read_experts(part_BT1[:1].to(accelerator.device), with_logits)
        steps, most = config.steps(windows.window), self.config.router.cache_bytes
        if with_logits and why_not(windows, steps, bytes_per_window(parts), most, folder, LEAST_REPEATS_OF_LOGITS):
            with_logits, parts = False, parts[:1]
        size = bytes_per_window(parts)
        refused = why_not(windows, steps, size, most, folder)
        if refused:
            return f"computed at every step ({refused})"
        about = {"model": digest_of(objective.model.experts, objective.model.head), "dtype": trainer.dtype}
        # The others find what the first process has laid out.
        with accelerator.main_process_first():
            objective.remember(WindowCache(folder, windows.distinct(), parts, about), with_logits)
        again, drawn = windows.repeats(steps), steps * windows.batch_size
        needed, what = format_bytes((drawn - again) * size), "computed once and kept on disk"
        what += " with logits" if with_logits else ""
        return f"{what} ({again:,} of {drawn:,} windows come again; {needed})"


def _told(cache: WindowCache | None, chosen: str) -> dict[str, Any]:
    """How the experts' outputs came about; counts and times are those of the first process since it last started."""
    if cache is None:
        return {"chosen": chosen}
    told = {"chosen": chosen, "windows": len(cache.rows), "bytes_per_window": cache.row_bytes, "given_up": cache.closed}
    tally = cache.tally
    cache.close()
    return told | {"written": tally.computed, "read": tally.read, "seconds": tally.seconds}


def assemble(job: RouterJob, inputs: Inputs) -> tuple[NanoThink, ModelShape]:
    """The mixture with trained experts and a fresh router; an expert of another embedding is refused."""
    embedding = inputs["embedding"]
    experts = {name: Pretrain.read_config(inputs[name].manifest["config"]).expert for name in job.members}
    shape = shape_of(job, inputs["tokens"], experts)
    model = build_mixture(shape, load_head(embedding.path))
    for name in job.members:
        trained_with = inputs[name].summary["embedding"]
        if trained_with != embedding.digest:
            raise ArtifactError(
                f"{inputs[name].path}: trained with the embedding {trained_with[:12]}, wanted {embedding.digest[:12]}; "
                "experts of different embeddings cannot be mixed: train them again"
            )
        path = inputs[name].path / WEIGHTS
        fill(model.experts[name], load_weights(path), path)
    return model, shape
