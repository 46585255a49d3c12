"""What all parts of the model share."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from nano_think.core.config import Config
from nano_think.core.device import ComputeConfig
from nano_think.experts import EXPERTS, kind_of


@dataclass(frozen=True, kw_only=True, slots=True)
class SpaceConfig(Config):
    """The shared space and the length of a window."""

    width: int = 128
    """Width of the shared space: of embeddings, of every expert's output, of memory keys (channels)."""
    window: int = 256
    """Tokens that are trained on and evaluated in one piece (tokens)."""

    def __post_init__(self) -> None:
        if self.width < 2 or self.window < 2:
            raise ValueError(f"width and window: wanted at least 2, got {self.width} and {self.window}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Job(Config):
    """What every stage that computes with tensors is told."""

    space: SpaceConfig
    compute: ComputeConfig
    seed: int


@contextlib.contextmanager
def fitting(place: str) -> Iterator[None]:
    """For the block, in which a model is built of the settings at `place`: what does not fit in it is theirs."""
    try:
        yield
    except AssertionError as error:
        raise ValueError(f"{place}: shapes that do not fit: {error}") from None


def expert_modules(*names: str) -> list[str]:
    """The modules of experts (all, if none is named): the registry imports them, so that no import shows them."""
    return [EXPERTS[kind].__module__ for kind in dict.fromkeys(map(kind_of, names or EXPERTS))]
