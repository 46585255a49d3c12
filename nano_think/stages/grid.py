"""A grid of settings: every combination of some settings' values, each a configuration of its own."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from nano_think.core.config import flatten, overlay, parse, to_dict
from nano_think.core.errors import UsageError, nearest
from nano_think.stages.pipeline import PipelineConfig


@dataclass(frozen=True, slots=True)
class Point:
    """One combination. `settings`: dotted name -> value; `config`: everything, with these laid over it."""

    settings: Mapping[str, Any]
    config: PipelineConfig

    @property
    def name(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.settings.items())


def grid(config: PipelineConfig, axes: Sequence[str]) -> list[Point]:
    """The points of a grid, the last axis changing first.

    axes: "a.b=1,2,3" each, the values as in YAML. Raises `UsageError` for the first point that cannot be.
    """
    read = dict(_axis(text, config) for text in axes)
    if len(read) < len(axes):
        raise UsageError("--over: one setting is named twice; give all its values in one --over")
    if not read:
        raise UsageError("--over: missing; wanted a setting and its values, as in --over pretrain.tokens=30000,60000")
    points = (dict(zip(read, values, strict=True)) for values in itertools.product(*read.values()))
    return [_point(config, settings) for settings in points]


def _axis(text: str, config: PipelineConfig) -> tuple[str, list[Any]]:
    name, equals, told = text.partition("=")
    try:
        values = yaml.safe_load(f"[{told}]")
    except yaml.YAMLError:
        values = []
    if not equals or not values:
        raise UsageError(f"--over {text}: wanted SETTING=VALUE,VALUE..., as in pretrain.tokens=30000,60000")
    known = dict(flatten(to_dict(config)))
    if name not in known:
        raise UsageError(f"--over {text}: unknown setting '{name}'.{_nearest(name, known)}")
    if len(set(map(repr, values))) < len(values):
        raise UsageError(f"--over {text}: a value is named twice")
    return name, values


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    """There are hundreds of settings: the nearest one, and where all of them are."""
    return f"{nearest(name, known).partition(' Known:')[0]} See them all with: nano-think run --print-config"


def _point(config: PipelineConfig, settings: Mapping[str, Any]) -> Point:
    over: dict[str, Any] = {}
    for name, value in settings.items():
        for part in reversed(name.split(".")):
            value = {part: value}
        over = overlay(over, value)
    point = Point(settings, config)
    return Point(settings, parse(PipelineConfig, overlay(to_dict(config), over), f"point {point.name}"))
