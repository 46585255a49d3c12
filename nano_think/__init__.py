"""nano_think: train, take apart and compare small language models made of different kinds of experts."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nano_think.stages.talking import load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    """`load` brings torch with it, for which nobody pays who only asks for the version."""
    if name == "load":
        return import_module("nano_think.stages.talking").load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
