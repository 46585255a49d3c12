"""A trained model as a folder: config.json and model.safetensors (and beside them, a tokenizer)."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from nano_think.core.config import parse, to_dict
from nano_think.core.errors import ArtifactError, UsageError
from nano_think.core.files import read_json, write_json
from nano_think.experts import EXPERTS, ExpertConfig, build_expert, kind_of
from nano_think.heads.language import LanguageHead
from nano_think.models.chat import Chat, ChatShape, Model, build_chat
from nano_think.models.think import NanoThink, Router, RouterConfig
from nano_think.nn.weights import fill, load_weights, save_weights

WEIGHTS, SHAPE = "model.safetensors", "config.json"


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Everything that fixes the tensors of a mixture."""

    width: int
    vocabulary: int
    window: int
    start_token: int
    router: RouterConfig = field(default_factory=RouterConfig)
    experts: dict[str, ExpertConfig] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        plain = {"width": self.width, "vocabulary": self.vocabulary, "window": self.window}
        experts = {name: to_dict(config) for name, config in self.experts.items()}
        return plain | {"start_token": self.start_token, "router": to_dict(self.router), "experts": experts}

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str) -> "ModelShape":
        kinds = {name: EXPERTS[kind_of(name)].Config for name in values["experts"]}
        experts = {name: parse(kinds[name], config, where) for name, config in values["experts"].items()}
        return cls(**values | {"router": parse(RouterConfig, values["router"], where), "experts": experts})


def build_mixture(shape: ModelShape, head: LanguageHead | None = None) -> NanoThink:
    """The mixture of this shape, freshly initialised; the head is empty unless given."""
    head = head or LanguageHead(torch.zeros(shape.vocabulary, shape.width), torch.zeros(shape.vocabulary))
    experts = {name: build_expert(name, config, shape.width) for name, config in shape.experts.items()}
    return NanoThink(head, experts, Router(shape.router, shape.width, len(experts)), shape.start_token)


def save_model(folder: Path, model: Model, shape: ModelShape | ChatShape) -> None:
    """Write a mixture, or a chat model with a body of its own, to `folder`."""
    save_weights(folder / WEIGHTS, model.state_dict())
    write_json(folder / SHAPE, shape.to_dict())


def save_mixture(folder: Path, model: NanoThink, shape: ModelShape) -> None:
    save_model(folder, model, shape)


def load_mixture(folder: Path) -> tuple[NanoThink, ModelShape]:
    """The mixture saved in `folder`, in evaluation mode; `ArtifactError` names what is missing or does not fit."""
    path, values = folder / SHAPE, read_json(folder / SHAPE)
    try:
        shape = ModelShape.from_dict(values, str(path))
    except (KeyError, TypeError, AttributeError, UsageError) as error:
        raise ArtifactError(f"{path}: not the configuration of a mixture ({error}); train it again") from None
    model = build_mixture(shape)
    fill(model, load_weights(folder / WEIGHTS), folder / WEIGHTS)
    return model.eval(), shape


def load_chat(folder: Path) -> tuple[Chat, ChatShape]:
    """The chat model with a body of its own that is saved in `folder`; errors as those of `load_mixture`."""
    path, values = folder / SHAPE, read_json(folder / SHAPE)
    try:
        shape = ChatShape.from_dict(values, str(path))
    except (KeyError, TypeError, AttributeError, UsageError) as error:
        raise ArtifactError(f"{path}: not the configuration of a chat model ({error}); train it again") from None
    model = build_chat(shape)
    fill(model, load_weights(folder / WEIGHTS), folder / WEIGHTS)
    return model.eval(), shape


def load_model(folder: Path) -> tuple[Model, ModelShape | ChatShape]:
    """Whichever of the two lies in `folder`."""
    values = read_json(folder / SHAPE)
    own = isinstance(values, dict) and "backbone" in values
    return load_chat(folder) if own else load_mixture(folder)
