"""A trained model, opened for talking: what every way to it begins with."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nano_think.core.device import Device, pick_device
from nano_think.core.files import sha256
from nano_think.data import tokenizer_file
from nano_think.data.tokenizer import Tokenizer
from nano_think.inference.engine import Engine
from nano_think.memory.conversation import Conversations
from nano_think.memory.journal import Owner
from nano_think.models.chat import ChatShape, Model
from nano_think.models.checkpoint import ModelShape, load_model
from nano_think.stages.artifact import Artifact, find_model
from nano_think.stages.recall import memories_of


@dataclass(frozen=True, kw_only=True)
class Opened:
    """The model of an artifact in evaluation mode, its tokenizer, the artifact itself, and that of its memory if there
    is one.
    """

    artifact: Artifact
    memory: Artifact | None
    model: Model
    shape: ModelShape | ChatShape
    tokenizer: Tokenizer

    @property
    def owner(self) -> Owner:
        """Whose the memories of its conversations are."""
        tokenizer = sha256(self.artifact.path / tokenizer_file.FILE)
        return Owner(model=self.artifact.digest, tokenizer=tokenizer, width=self.shape.width)

    def engine(
        self, rows: int, conversations: Callable[[str, bool], Conversations] | None = None, compiled: bool = False
    ) -> Engine:
        """An engine for `rows` requests at once; given the conversations of its namespaces, one that remembers."""
        memories = memories_of(self.memory, conversations) if conversations else None
        return Engine(
            self.model, self.tokenizer, self.shape.window, rows=rows, memories=memories, compiled=compiled
        )  # fmt: skip


def open_model(model: str, root: Path, device: Device = "cpu") -> Opened:
    """The model called `model` ("latest", "chat-latest" or a folder) under a root, on a device; its files are
    verified.
    """
    artifact, memory = find_model(model, root)
    opened, shape = load_model(artifact.path)
    opened.to(pick_device(device))
    tokenizer = Tokenizer.load(artifact.path)
    return Opened(artifact=artifact, memory=memory, model=opened, shape=shape, tokenizer=tokenizer)
