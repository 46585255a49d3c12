"""`nano-think data check`: whether sources can be read, by the code that reads them."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Annotated

import tyro
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from nano_think.cli.arguments import parse_arguments
from nano_think.core.console import clean, console
from nano_think.core.errors import InputError, UsageError
from nano_think.data.hub import HubSource
from nano_think.data.source import MAX_DOC_BYTES, BadLines, Reading, Source, Unreachable
from nano_think.data.sources import asked, groups


@dataclass(frozen=True, kw_only=True)
class CheckArguments:
    """Ask every source at the same time, and read of each: of the hub the first documents, of this machine all.

    Leaves with 0 if all can be read, else with 3.
    """

    sources: Annotated[tuple[str, ...], tyro.conf.arg(name="ingest.sources")] = ("seven",)
    """Sources, groups and files, as for a run; --sources is short for it."""
    first: int = 3
    """What is read of a dataset on the hub (documents)."""
    bad_lines: Annotated[BadLines, tyro.conf.arg(name="ingest.bad-lines")] = "error"
    """What an unusable line of a user's file is: "error" an error, "skip" left out and counted."""
    max_doc_bytes: Annotated[int, tyro.conf.arg(name="ingest.max-doc-bytes")] = MAX_DOC_BYTES
    """Longest line that is read, in bytes."""
    json: bool = False
    """Print one JSON object with what is known of every source on the last line."""

    def __post_init__(self) -> None:
        if self.first < 1 or self.max_doc_bytes < 1 or not self.sources:
            raise ValueError("wanted a source or more, and --first and --ingest.max-doc-bytes of at least 1")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What is known of one source."""

    name: str
    ok: bool = True
    wrong: str | None = None
    """Why it cannot be read."""
    domain: str | None = None
    licence: str | None = None
    dataset: str | None = None
    """Its id on the hub."""
    revision: str | None = None
    rows: int | None = None
    """Documents that the design takes of it."""
    documents: int = 0
    """Documents that were read."""
    skipped: int = 0
    """Lines that were left out."""
    characters: int | None = None
    """Length of the first document's text."""


def main(arguments: list[str]) -> int:
    wanted = parse_arguments(CheckArguments, "data check", arguments)
    reading = Reading(bad_lines=wanted.bad_lines, max_doc_bytes=wanted.max_doc_bytes)
    found = look(wanted.sources, reading, wanted.first)
    if wanted.json:
        print(json.dumps({"ok": all(one.ok for one in found), "sources": [asdict(one) for one in found]}))
    else:
        show(found, console())
    wrong = [one.name for one in found if not one.ok]
    if wrong:
        raise InputError(f"{len(wrong)} of {len(found)} sources cannot be read: {', '.join(wrong)}")
    return 0


def look(specs: Sequence[str], reading: Reading, first: int) -> list[Finding]:
    """What is known of each source that `specs` ask for, in order, all asked at once; `UsageError` for no source."""
    members = groups()
    names = [name for spec in specs for name in members.get(spec, [spec])]
    with ThreadPoolExecutor(max_workers=8) as pool:
        opened = [_opened(name, reading) for name in dict.fromkeys(names)]
        waiting = [
            one if isinstance(one, Finding) else pool.submit(_look, one, first) for each in opened for one in each
        ]
        return [one if isinstance(one, Finding) else one.result() for one in waiting]


def _opened(spec: str, reading: Reading) -> "list[Source] | list[Finding]":
    try:
        return asked((spec,), reading)
    except UsageError:
        raise
    except InputError as error:
        return [Finding(name=spec, ok=False, wrong=str(error))]


def _look(source: Source, first: int) -> Finding:
    hub = source if isinstance(source, HubSource) else None
    found = Finding(
        name=source.name, domain=source.domain, licence=source.licence, dataset=hub.dataset if hub else None,
        revision=hub.revision if hub and source.remote else None, rows=hub.rows if hub else None,
    )  # fmt: skip
    count, characters = 0, None
    try:
        # As in a run: whose origin cannot be told cannot be read.
        _ = source.origin
        source.check()
        with closing(source.documents()) as documents:  # type: ignore[type-var]
            for document in islice(documents, first if source.remote else None):
                characters = len(document.text) if characters is None else characters
                count += 1
        if not count:
            raise InputError("no document in it")
    except InputError as error:
        reason = error.reason if isinstance(error, Unreachable) else str(error)
        return replace(found, ok=False, wrong=reason, documents=count, characters=characters)
    return replace(found, documents=count, skipped=source.skipped.total(), characters=characters)


def show(found: Sequence[Finding], out: Console) -> None:
    """A line for each source; on a terminal the words that would not fit stand below it."""
    width = max(len(one.name) for one in found)
    for one in found:
        status = ("ok   ", "green") if one.ok else ("wrong", "bold red")
        read = f"{one.documents:,} of {one.rows:,} documents" if one.rows else f"{one.documents:,} documents"
        begins = "" if one.characters is None else f", the first of {one.characters:,} characters"
        line = Text.assemble(status, f"  {clean(one.name):<{width}}  ", read, begins)
        about = Text("; ".join(_about(one)), style="dim")
        why = Text(clean(one.wrong or ""))
        if not out.is_terminal:
            out.print(Text("; ").join(part for part in (line, why, about) if part.plain), soft_wrap=True)
            continue
        out.print(line)
        for part in filter(None, (why, about)):
            out.print(Padding(part, (0, 0, 0, 7)))


def _about(one: Finding) -> list[str]:
    dataset = f"{one.dataset} at {one.revision[:10]}" if one.revision else one.dataset
    left_out = f"{one.skipped:,} lines left out" if one.skipped else None
    return [clean(part) for part in (dataset, one.licence, left_out) if part]
