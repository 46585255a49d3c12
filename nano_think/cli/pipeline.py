"""The flags that `run`, `plan` and others share: a pipeline's settings, and which of its stages are meant."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypeVar

import tyro

from nano_think.cli.arguments import parse_arguments, pipeline_defaults
from nano_think.stages.pipeline import Node, PipelineConfig, plan, title
from nano_think.stages.selection import Selection

A = TypeVar("A", bound="PipelineArguments")


@dataclass(frozen=True, kw_only=True)
class PipelineArguments:
    """A pipeline's settings."""

    preset: str = "micro"
    """Which settings to start from: nano (a minute, for tests), micro (a laptop), seed (one consumer GPU)."""
    config: Path | None = None
    """YAML file of settings laid over the preset."""
    pipeline: Annotated[PipelineConfig, tyro.conf.arg(name="")] = field(default_factory=PipelineConfig)
    """Everything that the run depends on."""

    def nodes(self) -> dict[str, Node]:
        """The pipeline of these settings, as data."""
        return plan(self.pipeline, title(self.preset, self.pipeline))


@dataclass(frozen=True, kw_only=True)
class PlanArguments(PipelineArguments):
    """What a run would do, and why: nothing is made and nothing is written.

    Each stage is fresh (nothing to do), stale (there is another one, or it is damaged), missing, or half-made (a run
    would go on with it). Takes the settings of `nano-think run`.
    """

    root: Path = Path("artifacts")
    """Folder that all artifacts go to; a second run in it goes on where the first one stopped."""
    from_: Annotated[tuple[str, ...], tyro.conf.arg(name="from", metavar="STAGE...")] = ()
    """Only these stages and what follows from them; what they need must be up to date."""
    until: Annotated[tuple[str, ...], tyro.conf.arg(metavar="STAGE...")] = ()
    """Only these stages and what they need."""
    only: Annotated[tuple[str, ...], tyro.conf.arg(metavar="STAGE...")] = ()
    """Only these stages; what they need must be up to date."""
    force: Annotated[tuple[str, ...], tyro.conf.arg(metavar="STAGE...")] = ()
    """Make these stages again though they are up to date."""
    json: bool = False
    """Print one JSON object with all of it on the last line."""

    @property
    def selection(self) -> Selection:
        return Selection(first=self.from_, until=self.until, only=self.only, force=self.force)


@dataclass(frozen=True, kw_only=True)
class RunArguments(PlanArguments):
    """Train a mixture from text and report on it; what is finished already is not done again.

    Any setting below can be given as a flag, in a YAML file with --config, or both: default < preset < file < flags.
    --sources is short for --ingest.sources, --offline-ok is short for --ingest.offline-ok.
    """

    print_config: bool = False
    """Print the settings that result, as YAML, and do nothing."""
    dry_run: bool = False
    """Tell what the run would do, as `nano-think plan` does, and do nothing."""


def pipeline_arguments(kind: type[A], verb: str, arguments: list[str]) -> A:
    """The arguments of a verb that takes a pipeline's settings."""
    preset, defaults = pipeline_defaults(arguments, "micro")
    return parse_arguments(kind, verb, arguments, kind(preset=preset, pipeline=defaults))
