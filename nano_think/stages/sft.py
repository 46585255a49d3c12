"""A base and chats -> a model that one can talk to (supervised fine-tuning)."""

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from nano_think.core.config import Config, parse
from nano_think.core.errors import UsageError
from nano_think.core.rng import branch
from nano_think.data.chat_windows import ChatWindows
from nano_think.data.loader import Batches
from nano_think.data.tokenizer import Tokenizer
from nano_think.data.tokenizer_chat import ASSISTANT, ASSISTANT_END
from nano_think.data.tokens import TokenSet
from nano_think.experts import count_parameters
from nano_think.experts.transformer import TransformerConfig
from nano_think.models.chat import Chat, ChatShape, Model, build_chat, read_parts, switch_on
from nano_think.models.checkpoint import ModelShape, load_model, save_model
from nano_think.models.embedder import load_head
from nano_think.models.think import NanoThink
from nano_think.nn.weights import fill, load_weights
from nano_think.parts import PARTS
from nano_think.stages.artifact import Artifact, open_artifact
from nano_think.stages.chats import tokenizer_of
from nano_think.stages.pretrain import WEIGHTS
from nano_think.stages.router import TOKENIZER_FILES
from nano_think.stages.space import Job, SpaceConfig, expert_modules
from nano_think.stages.stage import Context, Inputs, Stage
from nano_think.stages.training import Trainer, TrainingStage
from nano_think.training.loop import TrainConfig, seed_everything
from nano_think.training.objectives.chat import ChatObjective, Marks


@dataclass(frozen=True, kw_only=True, slots=True)
class ReusedConfig(Config):
    """A trained model that lies somewhere."""

    folder: str
    """Its folder."""


class Reused(Stage):
    """The artifact of another run, as it is: chats are learned on a model that is there already."""

    name = "base"
    config: ReusedConfig

    def build(self, inputs: Inputs, out: Path, context: Context) -> dict[str, Any]:
        raise AssertionError("what is reused is never built")

    def run(self, root: Path, inputs: Inputs, context: Context | None = None) -> Artifact:
        found = open_artifact(Path(self.config.folder)).verify()
        (context or Context()).progress.fresh(self.name, found.key)
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class SftJob(Job):
    """The fine-tuning's configuration."""

    train: TrainConfig
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The settings of the parts that are on, by name: one that is off changes no key."""


class Sft(TrainingStage):
    """Learn what the assistant says in chats; the artifact is the whole model, with its tokenizer."""

    name = "sft"
    config: SftJob
    Config = SftJob

    def modules(self) -> list[str]:
        own = [PARTS[name].__module__ for name in self.config.parts]
        return [__name__, "nano_think.stages.training", *expert_modules(), *own]

    def fit(self, inputs: Inputs, out: Path, trainer: Trainer) -> dict[str, Any]:
        job, chats = self.config, inputs["chat_tokens"]
        seed_everything(branch(job.seed, self.name))
        tokenizer = Tokenizer.load(tokenizer_of(inputs))
        model, shape = open_base(inputs, job.space)
        if job.parts:
            shape = give_parts(model, shape, job.parts, tokenizer)
        # A sum of distributions has no gradient for its members: there the router alone learns.
        if isinstance(model, NanoThink) and model.fusion == "hidden":
            model.thaw()
        marks = marks_of(tokenizer)
        text = TokenSet.open(chats.path, "train")
        expect_ends(model, text, marks)
        windows = ChatWindows(text, job.space.window, job.train.batch, branch(job.seed, self.name, "windows"))
        held_out = self._held_out(chats)
        summary = trainer.train_on(ChatObjective(model, marks), windows, held_out, len(text), job.train, self.name)
        save_model(out, model, shape)
        for name in TOKENIZER_FILES:
            shutil.copyfile(tokenizer_of(inputs) / name, out / name)
        cut = int((text.documents.column("tokens").to_numpy() > job.space.window + 1).sum())
        packing = {"windows": len(windows.packs), "filled": windows.filled, "chats": len(text.documents), "cut": cut}
        return summary | {"parameters": count_parameters(model), "packing": packing}

    def _held_out(self, chats: Artifact) -> Batches | None:
        train, text = self.config.train, TokenSet.open(chats.path, "validation")
        if not train.validate_every or not len(text):
            return None
        return ChatWindows(text, self.config.space.window, train.batch, branch(self.config.seed, self.name, "windows"))


def open_base(inputs: Inputs, space: SpaceConfig) -> tuple[Model, ModelShape | ChatShape]:
    """What chats are learned on: a transformer of this run under its table, or a trained mixture or chat model."""
    base = inputs["base"]
    if "embedding" not in inputs:
        model, shape = load_model(base.path)
        return model, replace(shape, window=space.window)
    head = load_head(inputs["embedding"].path)
    tokenizer = Tokenizer.load(tokenizer_of(inputs))
    own = ChatShape(
        width=space.width, vocabulary=tokenizer.vocab_size, window=space.window, start_token=tokenizer.bos,
        backbone=parse(TransformerConfig, base.manifest["config"]["expert"], str(base.path)),
    )  # fmt: skip
    chat = build_chat(own, head)
    fill(chat.backbone, load_weights(base.path / WEIGHTS), base.path / WEIGHTS)
    return chat.eval(), own


def give_parts(
    model: Model, shape: ModelShape | ChatShape, parts: dict[str, dict[str, Any]], tokenizer: Tokenizer
) -> ChatShape:
    """Give a chat model, in place, the parts that it has not got; its new shape."""
    if not (isinstance(model, Chat) and isinstance(shape, ChatShape)):
        raise UsageError("parts.on: a mixture for a base takes no parts; leave --base out, or give a chat model")
    new = switch_on(model, shape, read_parts(parts, "parts"))
    words = [tokenizer.token_bytes(token) for token in range(shape.vocabulary)]
    for name in parts.keys() - shape.parts.keys():
        model.parts[name].study(words, model.head)  # type: ignore[operator]
    return new


def marks_of(tokenizer: Tokenizer) -> Marks:
    """The ids that tell who speaks."""
    return Marks(tokenizer.bos, tokenizer.special[ASSISTANT], tokenizer.special[ASSISTANT_END])


def expect_ends(model: Model, chats: TokenSet, marks: Marks) -> None:
    """Give the end of a message the bias that it would have, had the text been chats: its log share of all tokens.

    The bias is a log-unigram, and no text holds a mark: nothing could be less expected.
    """
    share = torch.tensor(float((chats.tokens == marks.ends).mean()))
    model.head.bias[marks.ends] = share.clamp_min(1e-9).log()
