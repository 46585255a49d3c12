"""A trained model, opened for talking: what every way to it begins with."""

from dataclasses import dataclass
from pathlib import Path

from nano_think.core.files import sha256
from nano_think.data import tokenizer_file
from nano_think.data.tokenizer import Tokenizer
from nano_think.memory.journal import Owner
from nano_think.models.chat import ChatShape, Model
from nano_think.models.checkpoint import ModelShape, load_model
from nano_think.stages.artifact import Artifact, find_model


@dataclass(frozen=True, kw_only=True)
class Opened:
    """The model of an artifact in evaluation mode, its tokenizer, and the artifact itself."""

    artifact: Artifact
    model: Model
    shape: ModelShape | ChatShape
    tokenizer: Tokenizer

    @property
    def owner(self) -> Owner:
        """Whose the memories of its conversations are."""
        tokenizer = sha256(self.artifact.path / tokenizer_file.FILE)
        return Owner(model=self.artifact.digest, tokenizer=tokenizer, width=self.shape.width)


def open_model(model: str, root: Path) -> Opened:
    """The model called `model` ("latest", "chat-latest" or a folder) under a root; its files are verified."""
    artifact, _ = find_model(model, root)
    opened, shape = load_model(artifact.path)
    return Opened(artifact=artifact, model=opened, shape=shape, tokenizer=Tokenizer.load(artifact.path))
