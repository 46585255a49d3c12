"""Text and the token table -> a base that has its parts from the beginning: they learn from the text with the body."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_think.core.rng import branch
from nano_think.data.tokenizer import Tokenizer
from nano_think.experts import count_parameters
from nano_think.experts.transformer import TransformerConfig
from nano_think.models.chat import ChatShape, build_chat
from nano_think.models.checkpoint import save_model
from nano_think.models.embedder import load_head
from nano_think.parts import PARTS
from nano_think.stages.chats import tokenizer_of
from nano_think.stages.pretrain import PretrainConfig
from nano_think.stages.router import TOKENIZER_FILES
from nano_think.stages.sft import give_parts, marks_of
from nano_think.stages.space import Job, expert_modules
from nano_think.stages.stage import Inputs
from nano_think.stages.training import Trainer, TrainingStage
from nano_think.training.loop import seed_everything
from nano_think.training.objectives.chat import TextObjective


@dataclass(frozen=True, kw_only=True, slots=True)
class TextBaseJob(Job):
    """The configuration of a base with parts."""

    backbone: TransformerConfig
    train: PretrainConfig
    parts: dict[str, dict[str, Any]]
    """The settings of the parts, by name."""


class TextBase(TrainingStage):
    """Train body and parts together on text; the artifact is a whole chat model, with its tokenizer."""

    name = "text_base"
    config: TextBaseJob
    Config = TextBaseJob

    def modules(self) -> list[str]:
        own = [PARTS[name].__module__ for name in self.config.parts]
        return [__name__, "nano_think.stages.training", *expert_modules("transformer"), *own]

    def fit(self, inputs: Inputs, out: Path, trainer: Trainer) -> dict[str, Any]:
        job = self.config
        # The seed of the base without parts: what both have begins alike.
        seed_everything(branch(job.seed, "experts", "transformer"))
        tokenizer = Tokenizer.load(tokenizer_of(inputs))
        plain = ChatShape(
            width=job.space.width, vocabulary=tokenizer.vocab_size, window=job.space.window,
            start_token=tokenizer.bos, backbone=job.backbone,
        )  # fmt: skip
        model = build_chat(plain, load_head(inputs["embedding"].path))
        shape = give_parts(model, plain, job.parts, tokenizer)
        objective = TextObjective(model, marks_of(tokenizer))
        summary = trainer.train(objective, inputs["tokens"], "train", job.train, "experts")
        save_model(out, model, shape)
        for name in TOKENIZER_FILES:
            shutil.copyfile(tokenizer_of(inputs) / name, out / name)
        return summary | {"parameters": count_parameters(model)}
