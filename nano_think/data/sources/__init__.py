"""The datasets, one file each. A new file that registers a `Source` is a new name for `--sources`."""

from nano_think.core.errors import UsageError, nearest
from nano_think.core.registry import Registry
from nano_think.data.source import Reading, Source, ask_all

SOURCES: Registry[type[Source]] = Registry("source", "nano_think.data.sources")


def groups() -> dict[str, list[str]]:
    """Group name -> the names of its sources, as the sources themselves say it."""
    found: dict[str, list[str]] = {}
    for name, source in SOURCES.items():
        for group in source.groups:
            found.setdefault(group, []).append(name)
    return found


def resolve(specs: tuple[str, ...], reading: Reading | None = None) -> list[Source]:
    """The sources that `specs` ask for, in order, each once.

    A spec is a source ("kjv"), a group ("starter", "seven") or a source with an argument ("jsonl:PATH/*.jsonl.gz").
    Raises `UsageError` with the nearest name for an unknown one, and `InputError` for a glob that matches nothing, or
    with a line for every source whose origin cannot be told.
    """
    return each_once(asked(specs, reading))


def asked(specs: tuple[str, ...], reading: Reading | None = None) -> list[Source]:
    """As `resolve`, before anything is asked of the sources: one that is asked for twice stands here twice."""
    members = groups()
    found: list[Source] = []
    for spec in specs:
        name, _, argument = spec.partition(":")
        for member in members.get(spec) or [name]:
            found += _known(member, spec, members).from_spec(argument, reading or Reading())
    return found


def each_once(found: list[Source]) -> list[Source]:
    """The sources in order without repetition; `InputError` with a line for each whose origin cannot be told."""
    ask_all(found, lambda source: source.origin)
    once: dict[tuple[str, str], Source] = {}
    for source in found:
        once.setdefault((source.name, source.origin), source)
    return list(once.values())


def _known(name: str, spec: str, members: dict[str, list[str]]) -> type[Source]:
    if name in SOURCES:
        return SOURCES[name]
    close = nearest(name, [*SOURCES, *members])
    raise UsageError(f"unknown source '{spec}'.{close} For files of your own: 'jsonl:PATH/*.jsonl'.")
