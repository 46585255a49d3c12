"""`nano-think data stats`: what a text amounts to."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from nano_think.cli.data.corpus import Corpus, TextArguments, corpus
from nano_think.core.console import clean, console, size
from nano_think.data.statistics import Counts, add_up, by_domain, median_bin, read_lengths

LEVELS = "▁▂▃▄▅▆▇█"
UNITS = ("B", "KiB", "MiB", "GiB")
# More sources than these are left to --json; more domains than these are shown without their splits.
MANY_SOURCES, MANY_DOMAINS = 20, 8


@dataclass(frozen=True, kw_only=True)
class StatsArguments(TextArguments):
    """Documents, bytes, tokens, cleaning, lengths and licences of a text, by domain and split."""

    json: bool = False
    """Print one JSON object with all figures on the last line."""


def main(arguments: list[str]) -> int:
    with corpus(StatsArguments, "data stats", arguments) as (wanted, found):
        figures = measure(found)
    if wanted.json:
        print(json.dumps(figures))
    else:
        show(found.what, figures)
    return 0


def measure(found: Corpus) -> dict[str, Any]:
    """All figures as plain JSON values; tokens and bytes_per_token are None where nothing has been encoded yet."""
    splits, tokens = found.summary["splits"], (found.tokens or {}).get("splits", {})
    return {
        **add_up(splits.values(), tokens.values()),
        "domains": by_domain(splits, tokens),
        "splits": {name: _split(split, tokens.get(name)) for name, split in splits.items()},
        "lengths": found.summary.get("lengths") or read_lengths(found.folder),
        "cleaning": found.summary["cleaning"],
        "sources": found.summary["sources"],
        "left_out": found.summary.get("left_out", []),
        "vocab_size": (found.tokens or {}).get("vocab_size"),
    }


def _split(split: dict[str, Any], encoded: dict[str, Any] | None) -> dict[str, Any]:
    tokens = [encoded] if encoded else []
    return {**add_up([split], tokens), "domains": by_domain({"": split}, {"": encoded} if encoded else {})}


def show(what: str, figures: Mapping[str, Any]) -> None:
    """Print the figures for people."""
    out = console()
    out.print(Text.assemble("Text of ", (clean(what), "bold")))
    for title, body in (
        ("Sources", list(_sources(figures))),
        ("Text by domain and split", [_amounts(figures)]),
        ("Lengths of documents, as shares of a domain", [_histograms(figures["lengths"])]),
        ("Cleaning", [_cleaning(figures["cleaning"])]),
    ):
        out.print()
        out.print(Text(title, style="bold"))
        for part in body:
            out.print(Padding(part, (0, 0, 0, 2), expand=False))


def _sources(figures: Mapping[str, Any]) -> Iterator[Text]:
    for row in figures["sources"][:MANY_SOURCES]:
        place = f", in the place of {', '.join(row['stands_in_for'])}" if row.get("stands_in_for") else ""
        counts = f"{row['documents']:,} documents, {size(row['bytes'])}"
        yield Text.assemble((clean(row["name"]), "cyan"), (place, "yellow"), f"  {clean(row['domain'])}, {counts}")
        yield Text(f"  {clean(row['licence'])}\n  {clean(row['origin'])}", style="dim")
    if len(figures["sources"]) > MANY_SOURCES:
        yield Text(f"and {len(figures['sources']) - MANY_SOURCES} more; all of them with --json", style="dim")
    for row in figures["left_out"]:
        yield Text.assemble((f"{row['name']}, left out", "yellow"), f"  {row['domain']}: {clean(row['why'])}")


def _amounts(figures: Mapping[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("domain", "split"):
        table.add_column(name)
    for name in ("documents", "text", "tokens", "bytes per token"):
        table.add_column(name, justify="right")
    few = len(figures["domains"]) <= MANY_DOMAINS
    for domain, whole in figures["domains"].items():
        parts = {split: part["domains"].get(domain) for split, part in figures["splits"].items()}
        _add(table, domain, whole, parts if few else {})
    _add(table, "all", figures, figures["splits"])
    return table


def _add(table: Table, domain: str, whole: Mapping[str, Any], splits: Mapping[str, Counts | None]) -> None:
    table.add_row(clean(domain), "all splits", *_counted(whole), style="bold")
    for split, counts in splits.items():
        if counts:
            table.add_row("", split, *_counted(counts))


def _counted(counts: Mapping[str, Any]) -> list[str]:
    tokens, rate = counts["tokens"], counts["bytes_per_token"]
    encoded = ["–" if tokens is None else f"{tokens:,}", "–" if rate is None else f"{rate:.2f}"]
    return [f"{counts['documents']:,}", size(counts["bytes"]), *encoded]


def _histograms(lengths: Mapping[str, Mapping[str, int]]) -> Table:
    """A line of bars per domain, one for each power of two, all on one scale."""
    bins = {domain: {int(k): count for k, count in found.items()} for domain, found in lengths.items() if found}
    first, last = min(map(min, bins.values())), max(map(max, bins.values()))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("domain")
    table.add_column(_axis(first, last), no_wrap=True)
    table.add_column("median")
    for domain, counts in bins.items():
        most, middle = max(counts.values()), median_bin(counts)
        line = "".join(_bar(counts.get(k, 0), most) * 2 for k in range(first, last + 1))
        limits = f"{_limit(middle)} to {_limit(middle + 1)}"
        table.add_row(clean(domain), Text(line, style="cyan"), limits)
    return table


def _bar(count: int, most: int) -> str:
    """One of eight heights; what there is at all is never nothing."""
    return LEVELS[round(count / most * (len(LEVELS) - 1))] if count else " "


def _axis(first: int, last: int) -> str:
    """The lower limits of some bins, each over the two columns of its bar."""
    axis = ""
    for k in range(first, last + 1):
        if k % 4 == 0 and len(axis) <= 2 * (k - first):
            axis = axis.ljust(2 * (k - first)) + f"{_limit(k)} "
    return axis.rstrip()


def _limit(k: int) -> str:
    unit = min(k // 10, 3)
    return f"{2 ** (k - 10 * unit)} {UNITS[unit]}"


def _cleaning(counts: Mapping[str, int]) -> Text:
    """Every step: first what was done, then what there was no need for."""
    done = [f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items() if count]
    idle = [name.replace("_", " ") for name, count in counts.items() if not count]
    return Text.assemble(", ".join(done), (f"\nnone: {', '.join(idle)}" if idle else "", "dim"))
