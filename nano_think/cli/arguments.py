"""From words on the command line to typed arguments."""

import contextlib
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import tyro

from nano_think.core.config import overlay, parse, read_settings, to_dict
from nano_think.core.errors import UsageError

if TYPE_CHECKING:
    from nano_think.data.ingest import IngestConfig
    from nano_think.stages.chat_pipeline import ChatConfig
    from nano_think.stages.pipeline import PipelineConfig

A = TypeVar("A")
SHORT = {"--sources": "--ingest.sources", "--offline-ok": "--ingest.offline-ok"}


def parse_arguments(kind: type[A], verb: str, arguments: list[str], default: A | None = None) -> A:
    """The arguments of a verb, an instance of the dataclass `kind`; wrong ones end with exit code 2 and a hint."""
    words = [_lengthen(word) for word in arguments]
    config = (tyro.conf.FlagCreatePairsOff,)
    start = tyro.MISSING_NONPROP if default is None else default
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, prog=f"nano-think {verb}", args=words, default=start, config=config)
    except ValueError as error:
        raise UsageError(str(error)) from None
    except SystemExit as end:
        if not end.code:
            raise
        raise UsageError(f"{_in_one_line(said.getvalue())} See: nano-think {verb} --help") from None


def _in_one_line(box: str) -> str:
    """What is wrong, and the flag that may be meant, out of the frame that tyro draws around its errors."""
    lines = [line.strip("│ ") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    wrong = " ".join(line for line in lines[: next((i for i, line in enumerate(lines) if "───" in line), None)] if line)
    flags = [line.split()[0] for line in lines if line.startswith("--")]
    if any(line.startswith("Perhaps you meant") for line in lines) and flags:
        return f"{wrong}. Did you mean '{flags[0]}'?"
    if wrong.startswith("Missing from"):
        return f"missing: {', '.join(flags)}."
    return re.sub(r"^(Error parsing )?(pipeline\.)?", "", wrong).rstrip(".") + "."


def _lengthen(word: str) -> str:
    name, equals, value = word.partition("=")
    return SHORT.get(name, name) + equals + value


def pipeline_defaults(arguments: list[str], preset: str) -> "tuple[str, PipelineConfig]":
    """The preset's name and its configuration with `--config FILE` laid over it: what the other flags start from."""
    from nano_think.stages.pipeline import load

    return _defaults(arguments, preset, load)


def chat_defaults(arguments: list[str], preset: str) -> "tuple[str, ChatConfig]":
    """As `pipeline_defaults`, of the chat pipeline."""
    from nano_think.stages.chat_pipeline import load_chat_config

    return _defaults(arguments, preset, load_chat_config)


def _defaults(arguments: list[str], preset: str, load: Callable[[str], A]) -> tuple[str, A]:
    """A file may name the preset that it starts from, in a setting of that name; a flag goes before it."""
    file = _value_of("--config", arguments)
    settings = read_settings(Path(file)) if file else {}
    preset = _value_of("--preset", arguments) or str(settings.pop("preset", preset))
    settings.pop("preset", None)
    base = load(preset)
    return preset, parse(type(base), overlay(to_dict(base), settings), file) if file else base  # type: ignore


def ingest_defaults(arguments: list[str]) -> "IngestConfig | None":
    """What the flags of the text start from, a preset's or the plain ones; None where the arguments name no text."""
    from nano_think.data.ingest import IngestConfig

    named = [_lengthen(word).partition("=")[0] for word in arguments]
    if "--preset" in named:
        return pipeline_defaults(arguments, "")[1].ingest
    return IngestConfig() if any(word.startswith("--ingest.") for word in named) else None


def _value_of(flag: str, arguments: list[str]) -> str | None:
    for index, word in enumerate(arguments):
        if word == flag and index + 1 < len(arguments):
            return arguments[index + 1]
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return None
