"""From words on the command line to typed arguments."""

from pathlib import Path
from typing import TypeVar

import tyro

from nano_think.core.config import read_yaml
from nano_think.core.errors import UsageError
from nano_think.stages.pipeline import PipelineConfig, load

A = TypeVar("A")
SHORT = {"--sources": "--ingest.sources"}


def parse_arguments(kind: type[A], verb: str, arguments: list[str], default: A | None = None) -> A:
    """The arguments of a verb, an instance of the dataclass `kind`; wrong ones end with exit code 2 and a hint."""
    words = [_lengthen(word) for word in arguments]
    settings = {"prog": f"nano-think {verb}", "args": words, "config": (tyro.conf.FlagCreatePairsOff,)}
    try:
        return tyro.cli(kind, **settings) if default is None else tyro.cli(kind, default=default, **settings)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _lengthen(word: str) -> str:
    name, equals, value = word.partition("=")
    return SHORT.get(name, name) + equals + value


def pipeline_defaults(arguments: list[str], preset: str) -> tuple[str, PipelineConfig]:
    """The preset's name and its configuration with `--config FILE` laid over it: what the other flags start from."""
    preset = _value_of("--preset", arguments) or preset
    file = _value_of("--config", arguments)
    return preset, load(preset, read_yaml(Path(file)) if file else {})


def _value_of(flag: str, arguments: list[str]) -> str | None:
    for index, word in enumerate(arguments):
        if word == flag and index + 1 < len(arguments):
            return arguments[index + 1]
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return None
