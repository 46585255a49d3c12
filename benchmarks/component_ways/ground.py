"""What the parts are measured on: one base of the preset `chat-component`, text that it has not seen, one way to train.

B batch, T tokens
"""

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from nano_think.core.config import to_dict
from nano_think.core.rng import branch
from nano_think.data.loader import Batches, open_windows
from nano_think.data.tokenizer import Tokenizer
from nano_think.data.tokens import TokenSet
from nano_think.evaluation.documents import split_documents
from nano_think.evaluation.reading import Document, windows
from nano_think.models.chat import Chat, ChatShape
from nano_think.parts import Dials, PartConfig
from nano_think.stages.chat_pipeline import ChatConfig, chat_plan
from nano_think.stages.sft import give_parts, open_base
from nano_think.stages.space import SpaceConfig
from nano_think.training.flops import count_flops
from nano_think.training.loop import TrainConfig, seed_everything, train
from nano_think.training.objectives.chat import Marks, TextObjective

BASE = ("ingest", "tokenizer", "tokens", "embedding", "base", "chats", "chat_tokens")


@dataclass(frozen=True)
class Ground:
    """The artifacts of a base, by stage, and the settings they were made with."""

    config: ChatConfig
    artifacts: dict[str, Any]

    @property
    def window(self) -> int:
        return self.config.space.window

    def text(self, split: str) -> TokenSet:
        return TokenSet.open(self.artifacts["tokens"].path, split)

    def documents(self, split: str, tokens: int) -> list[Document]:
        """Documents of a split, of every domain, about so many tokens in all."""
        return list(split_documents(self.text(split), tokens, seed=0))

    def tokenizer(self) -> Tokenizer:
        return Tokenizer.load(self.artifacts["tokenizer"].path)

    def chat(self, seed: int, parts: dict[str, PartConfig]) -> tuple[Chat, ChatShape]:
        """The base with parts as they are before they have learned."""
        seed_everything(seed)
        space = SpaceConfig(width=self.config.space.width, window=self.window)
        model, shape = open_base(self.artifacts, space)
        assert isinstance(model, Chat) and isinstance(shape, ChatShape)
        shape = give_parts(model, shape, {name: to_dict(part) for name, part in parts.items()}, self.tokenizer())
        return model, shape


def lay(config: ChatConfig, root: Path) -> Ground:
    """Make the base below a root, or take it from there."""
    made: dict[str, Any] = {}
    for name, node in chat_plan(config, root).items():
        if name in BASE:
            made[name] = node.stage.run(root, {need: made[need] for need in node.needs})
    return Ground(config, made)


def teach(model: Chat, windows: Batches, tokens: int, seed: int, objective: Any = None, rate: float = 0.5) -> float:
    """Train on text from the loader, by the one loop; floating-point operations of a step per token.

    rate: the share of the base's learning rates.
    """
    objective = objective or TextObjective(model, Marks(model.start_token, -1, -1))
    usual = TrainConfig()
    optim = replace(usual.optim, matrix_rate=rate * usual.optim.matrix_rate, vector_rate=rate * usual.optim.vector_rate)
    config = TrainConfig(
        tokens=tokens, batch=windows.batch_size, log_every=10**6, save_every=1e9, keep=1, optim=optim
    )  # fmt: skip
    accelerator = Accelerator(cpu=True)
    flops = count_flops(objective, windows, accelerator)
    with tempfile.TemporaryDirectory() as folder:
        train(objective, windows, config, accelerator, Path(folder), lambda event: None, seed)
    model.eval()
    return flops


def text_windows(ground: Ground, seed: int) -> Batches:
    return open_windows(ground.text("train"), ground.window, ground.config.pretrain.batch, branch(seed, "windows"))


@torch.no_grad()
def each_target(
    model: Chat, documents: Sequence[Document], window: int, see: Callable[[Tensor, Tensor, Tensor, Any], None],
    dials: Dials | None = None,
) -> None:  # fmt: skip
    """Show every batch of windows: inputs, targets, whether they count, (B, T) each, and what the model made of it."""
    for inputs_BT, targets_BT, counted_BT in windows(documents, window, model.start_token):
        see(inputs_BT, targets_BT, counted_BT, model(inputs_BT, dials))


def bits_per_byte(
    model: Chat, documents: Sequence[Document], window: int, dials: Dials | None = None, temperature: float = 1.0
) -> float:
    """Of documents, under a temperature, steered."""
    nats = []

    def see(inputs_BT: Tensor, targets_BT: Tensor, counted_BT: Tensor, routed: Any) -> None:
        if temperature == 1:
            nll_BT = model.nll(routed, targets_BT)
        else:
            log_p_BTV = (model.logits(routed) / temperature).log_softmax(-1)
            nll_BT = -log_p_BTV.gather(-1, targets_BT[..., None])[..., 0]
        nats.append(float((nll_BT * counted_BT).sum()))

    each_target(model, documents, window, see, dials)
    return sum(nats) / sum(one.bytes for one in documents) / math.log(2)


def auroc(low: np.ndarray, high: np.ndarray) -> float:
    """The chance that a value of the second kind is above one of the first, ties half (Mann and Whitney 1947)."""
    return float((high[:, None] > low).mean() + (high[:, None] == low).mean() / 2)
