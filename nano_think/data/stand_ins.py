"""What is read where the hub cannot be reached and the user allows it: the source of the domain on this machine."""

import functools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from nano_think.core.errors import InputError
from nano_think.data.source import Reading, Source, Unreachable
from nano_think.data.sources import SOURCES, asked, each_once


@dataclass(frozen=True, slots=True)
class Absent:
    """A dataset that could not be reached, and the name of the source that is read instead, if any."""

    name: str
    domain: str
    why: str
    stand_in: str | None

    @property
    def told(self) -> str:
        """One line for the user."""
        what = f"{self.stand_in} stands in for it" if self.stand_in else "left out, for nothing stands in for it"
        return f"{self.name}: {self.why}; {what}"


@dataclass(frozen=True, slots=True)
class Settled:
    """What is read in the end, and what could not be."""

    sources: list[Source]
    absent: tuple[Absent, ...] = ()

    def role(self, source: Source) -> dict[str, list[str]]:
        """{"stands_in_for": names of datasets} of a source that is read in their place; empty for the others."""
        names = [one.name for one in self.absent if one.stand_in == source.name]
        return {"stands_in_for": names} if names else {}

    @property
    def left_out(self) -> list[dict[str, str]]:
        """{name, domain, why} of each dataset in whose place nothing is read."""
        return [{"name": one.name, "domain": one.domain, "why": one.why} for one in self.absent if not one.stand_in]


def settle(specs: tuple[str, ...], reading: Reading | None = None, offline_ok: bool = False) -> Settled:
    """As `resolve`; with `offline_ok` a dataset that cannot be reached gives its place to its stand-in, or is left out.

    All of one process go by the first answer, so that the key of a run, its text and its manifest agree even where the
    network comes and goes. Raises `InputError` as `resolve` does, and where nothing is left to read.
    """
    found = asked(specs, reading)
    absent = _absent(found) if offline_ok else {}
    places = [absent[source.name].stand_in if _gone(source, absent) else source for source in found]
    there = [SOURCES[place]() if isinstance(place, str) else place for place in places if place]
    if not there:
        raise InputError("\n".join([*(one.told for one in absent.values()), "no source is left to read"]))
    return Settled(each_once(there), tuple(absent.values()))


def _gone(source: Source, absent: dict[str, Absent]) -> bool:
    return source.remote and source.name in absent


def _absent(found: list[Source]) -> dict[str, Absent]:
    kinds = list(dict.fromkeys(type(source) for source in found if source.remote))
    with ThreadPoolExecutor(max_workers=8) as pool:
        reasons = zip(kinds, pool.map(reason, kinds), strict=True)
        return {kind.name: Absent(kind.name, kind.domain, why, kind.stand_in) for kind, why in reasons if why}


@functools.cache
def reason(kind: type[Source]) -> str | None:
    """Why a dataset cannot be had, or None if it can: asked once in a process."""
    try:
        kind().check()
    except Unreachable as error:
        return error.reason
    except InputError as error:
        return str(error)
    return None
