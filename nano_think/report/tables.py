"""The data of a report as tables of plain cells; one macro of the template shows them all."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nano_think.core.config import flatten
from nano_think.data.statistics import add_up, by_domain
from nano_think.report import scores as scored
from nano_think.report import words
from nano_think.report.data import ReportData


@dataclass(frozen=True, slots=True)
class Cell:
    """What stands in one place of a table."""

    text: str
    kind: str = "text"
    """text, long (text that may wrap), number, code, or bar (a number with a bar of length `part` beside it)."""
    part: float = 0.0
    best: bool = False
    link: str | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a head; the first cell of a row names it. A last row that sums up is set apart by `total`."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    total: bool = False


def number(text: str, best: bool = False) -> Cell:
    return Cell(text, "number", best=best)


def code(text: Any) -> Cell:
    return Cell(str(text), "code")


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[Cell]], total: bool = False) -> Table | None:
    """A table, or None without rows."""
    kept = list(rows)
    return Table(caption, head, kept, total) if kept else None


def results(data: ReportData) -> Table | None:
    """Domain x scorer, the whole last, the best of each row marked."""
    experts = scored.expert_names(data)
    domains = scored.by_domain(data)
    rows = {domain: scored.scores(figures, experts) for domain, figures in domains.items()}
    names = [name for name in (*experts, "uniform", scored.OURS, "dense") if any(name in row for row in rows.values())]
    if not names:
        return None
    ordered = [*(domain for domain in rows if domain != scored.ALL), scored.ALL]
    body = [
        [Cell(domain), *scored_cells(rows[domain], names), number(words.size(domains[domain].get("bytes")))]
        for domain in ordered
    ]
    caption = "Bits per byte of held-out text, memory off; lower is better, the best of a row is marked"
    return Table(caption, ["domain", *map(words.name, names), "text read"], body, total=True)


def scored_cells(values: Mapping[str, Any], names: Sequence[str], controls: Sequence[str] = ()) -> list[Cell]:
    """The figures under `names`, the least of them marked; a control takes no part."""
    rivals = {name: value for name, value in values.items() if words.known(value) and name not in controls}
    best = scored.best(rivals) if len(rivals) > 1 else None
    return [number(words.fixed(values.get(name)), best=name == best) for name in names]


def memory(data: ReportData) -> Table | None:
    """What reading from memory changes, beside a control that reads the same vectors in a wrong order."""
    rows = [
        (f"{kind}, {domain}", {"memory off": figures.get("bits_per_byte"), "memory on": values.get("mixture"),
                               "shuffled control": values.get("shuffled"), "dense, memory on": values.get("dense")})
        for domain, figures in scored.by_domain(data).items()
        for kind, values in (figures.get("memory") or {}).items()
    ]  # fmt: skip
    heads = ("memory off", "memory on", "shuffled control", "dense, memory on")
    names = [name for name in heads if any(words.known(row[name]) for _, row in rows)]
    body = ([Cell(title), *scored_cells(row, names, ("shuffled control",))] for title, row in rows)
    return table("Bits per byte with memory; lower is better, the best of a row is marked", ["memory", *names], body)


def routing(data: ReportData) -> Table | None:
    """Domain x expert: mean weight."""
    experts = scored.expert_names(data)
    rows = (
        [Cell(domain), *(number(words.fixed(row.get(name))) for name in experts)]
        for domain, row in scored.routing(data).items()
    )
    return table("Mean routing weight", ["domain", *map(words.name, experts)], rows)


def trainings(data: ReportData) -> Table | None:
    """Where each training ended, its further loss terms included."""
    rows = []
    for name, log in data.curves.items():
        if log:
            last = log[-1]
            terms = [f"{words.name(key)} {words.fixed(value)}" for key, value in last.items() if key not in _PLACE]
            figures = [words.count(last.get("step")), words.count(last.get("tokens")), words.fixed(last.get("loss"))]
            rows.append(
                [Cell(words.name(name)), *map(number, figures), Cell(", ".join(terms) or words.NOTHING, "long")]
            )
    head = ["training", "steps", "tokens", "last loss", "of which"]
    return table("Where each training ended; losses in nats per token", head, rows)


_PLACE = ("step", "tokens", "loss", "rate", "event", "seconds", "tokens_per_second", "steps")


def sources(data: ReportData) -> Table | None:
    """What the text is, whose it is and under which licence; what was read in the place of something else says so."""
    rows = (
        [Cell(_source_name(source), "long"), Cell(str(source.get("domain", words.NOTHING))),
         Cell(str(source.get("licence") or "not stated"), "long"), _origin(source.get("origin")),
         number(words.count(source.get("documents"))), number(words.size(source.get("bytes")))]
        for source in data.sources
    )  # fmt: skip
    head = ["source", "domain", "licence and attribution", "origin", "documents", "text"]
    return table("Sources of the text", head, rows)


def left_out(data: ReportData) -> Table | None:
    """What was asked for and is not in the text."""
    rows = (
        [
            Cell(str(one.get(key) or words.NOTHING), "long" if key == "why" else "text")
            for key in ("name", "domain", "why")
        ]
        for one in data.left_out
    )
    return table("Datasets that were asked for and left out", ["dataset", "domain", "why"], rows)


def domains(data: ReportData) -> Table | None:
    """What each domain amounts to, all splits together."""
    found = by_domain(data.splits, data.tokens)
    whole = add_up((data.splits or data.tokens).values(), data.tokens.values())
    rows = [
        [Cell(domain), number(words.count(counts["documents"])), number(words.size(counts["bytes"])),
         number(words.count(counts["tokens"])), number(words.fixed(counts["bytes_per_token"], 2))]
        for domain, counts in [*found.items(), ("all", whole)]
    ]  # fmt: skip
    head = ["domain", "documents", "text", "tokens", "bytes per token"]
    return table("Text by domain, all splits", head, rows if found else [], total=True)


def _source_name(source: Mapping[str, Any]) -> str:
    name, places = str(source.get("name", words.NOTHING)), [str(one) for one in source.get("stands_in_for") or ()]
    return f"{name}, in the place of {words.listed(places)}" if places else name


def _origin(origin: Any) -> Cell:
    text = str(origin or words.NOTHING)
    return Cell(text, "long", link=text if text.startswith(("https://", "http://")) else None)


def splits(data: ReportData) -> Table | None:
    """What was trained on, what the router saw, what was held out."""
    rows = []
    for name in dict.fromkeys((*data.splits, *data.tokens)):
        counts = {**(data.tokens.get(name) or {}), **(data.splits.get(name) or {})}
        tokens = (data.tokens.get(name) or {}).get("tokens")
        domains = ", ".join(f"{domain} {words.size(part.get('bytes'))}" for domain, part in _parts(counts))
        figures = [words.count(counts.get("documents")), words.size(counts.get("bytes")), words.count(tokens)]
        rows.append([Cell(name), *map(number, figures), Cell(domains or words.NOTHING, "long")])
    return table("Splits", ["split", "documents", "text", "tokens", "by domain"], rows)


def _parts(counts: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return sorted((counts.get("domains") or {}).items())


def cleaning(data: ReportData) -> Table | None:
    """How often each step of the cleaning acted."""
    rows = ([Cell(words.name(step)), number(words.count(times))] for step, times in data.cleaning.items())
    return table("Cleaning", ["step", "count"], rows)


def parameters(data: ReportData) -> Table | None:
    """Counted on the tensors; bars are shares of the largest entry."""
    most = max(data.parameters.values(), default=0) or 1
    rows = (
        [Cell(words.name(part)), Cell(words.count(value), "bar", value / most)]
        for part, value in data.parameters.items()
    )
    whole = list(data.parameters)[-1:] == ["whole"]
    return table("Parameters, counted on the tensors", ["part", "parameters"], rows, total=whole)


def times(data: ReportData) -> Table | None:
    """Wall clock of each stage, when it was built."""
    most = max((stage.get("seconds") or 0 for stage in data.times.values()), default=0) or 1
    rows = (
        [Cell(words.name(name)), Cell(words.seconds(stage.get("seconds")), "bar", (stage.get("seconds") or 0) / most,
                                      note="cached" if stage.get("fresh") else "")]
        for name, stage in data.times.items()
    )  # fmt: skip
    return table("Wall clock by stage", ["stage", "time"], rows)


def settings(data: ReportData) -> Table | None:
    """Every setting by its dotted name, as a configuration file would spell it."""
    rows = ([code(name), code(_plain(value))] for name, value in flatten(data.config))
    return table("Resolved configuration", ["setting", "value"], rows)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def compute(data: ReportData) -> Table | None:
    """Where and how precisely each training computed."""
    kinds = list(dict.fromkeys(key for chosen in data.compute.values() for key in chosen if key != "event"))
    rows = (
        [Cell(words.name(name)), *(Cell(_plain(chosen.get(kind, words.NOTHING))) for kind in kinds)]
        for name, chosen in data.compute.items()
    )
    return table("Compute", ["training", *map(words.name, kinds)], rows)


def artifacts(data: ReportData) -> Table | None:
    """The key that each artifact was made under, and the digest of what was made."""
    rows = (
        [Cell(words.name(name)), code(made.get("key", words.NOTHING)), code(made.get("digest", words.NOTHING))]
        for name, made in data.artifacts.items()
    )
    return table("Artifacts", ["stage", "key", "digest"], rows)


def versions(data: ReportData) -> Table | None:
    """What computed it."""
    rows = ([Cell(package), code(_plain(version))] for package, version in flatten(data.versions))
    return table("Versions", ["package", "version"], rows)
