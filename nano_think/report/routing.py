"""What the router does, as pictures, tables and a sentence: by class of token, by position, over a document's depth."""

import math
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from nano_think.report import scores as scored
from nano_think.report import words
from nano_think.report.data import ReportData
from nano_think.report.palette import MUTED, colour_of
from nano_think.report.plots import PHONE, extent, legend, stacks
from nano_think.report.svg import FONT, axes, canvas
from nano_think.report.tables import Cell, Table, number, table

Means = dict[str, dict[str, float]]
KINDS = {"by_class": "token predicted", "by_position": "position in the document", "by_depth": "depth of the document"}


def means(data: ReportData, kind: str) -> Means:
    """Group -> expert -> mean weight, in the order of the evaluation."""
    groups = (data.results.get("routing") or {}).get(kind) or {}
    found = {group: _known(row.get("weights"), data) for group, row in groups.items()}
    return {group: row for group, row in found.items() if row}


def _known(row: Mapping[str, Any] | None, data: ReportData) -> dict[str, float]:
    return {name: row[name] for name in scored.expert_names(data) if row and words.known(row.get(name))}


def classes(data: ReportData, width: float) -> Figure | None:
    """A bar per class of tokens, cut by the experts' mean weights."""
    return stacks(means(data, "by_class"), scored.expert_names(data), width)


def positions(data: ReportData, width: float) -> Figure | None:
    """Mean weights over the position in the document, in powers of two."""
    return _lines(means(data, "by_position"), scored.expert_names(data), width, "position in the document (tokens)")


def depths(data: ReportData, width: float) -> Figure | None:
    """Mean weights over tenths of a document."""
    return _lines(means(data, "by_depth"), scored.expert_names(data), width, "part of the document that was read")


def _lines(rows: Means, experts: list[str], width: float, label: str) -> Figure | None:
    """A line per expert over the groups."""
    if len(rows) < 2:
        return None
    columns = min(len(experts), 6 if width > PHONE else 3)
    head = 20.0 * math.ceil(len(experts) / columns) + 22
    figure = canvas(width, 190 + head)
    frame = axes(figure, 30, 38, width - 46, 190 - 38)
    for name in experts:
        line = [row.get(name, math.nan) for row in rows.values()]
        frame.plot(range(len(rows)), line, "o-", ms=4, lw=1.7, color=colour_of(name, experts), clip_on=False)
    _line_axes(frame, list(rows), label, width)
    legend(frame, experts, columns, -30 if width < PHONE else 0, 110 if width > PHONE else width / columns, above=18)
    return figure


def _line_axes(frame: Axes, names: list[str], label: str, width: float) -> None:
    frame.set_ylim(0, None)
    frame.yaxis.set_major_locator(MaxNLocator(4))
    frame.yaxis.set_major_formatter(lambda value, _: words.share(value))
    frame.grid(axis="y")
    frame.spines["left"].set_visible(False)
    # A label takes about 60 points.
    apart = max(1, math.ceil(len(names) * 60 / width))
    frame.xaxis.set_major_locator(FixedLocator(range(0, len(names), apart)))
    frame.xaxis.set_major_formatter(lambda place, _: names[round(place)])
    frame.set_xlabel(label, labelpad=6, loc="left")
    frame.set_title("mean weight", fontsize=FONT, color=MUTED, loc="left", pad=8, x=-30 / extent(frame)[0])


def groups(data: ReportData) -> list[Table]:
    """The weights of every group, a table for each way to group tokens."""
    experts = scored.expert_names(data)
    return [one for kind, title in KINDS.items() if (one := _table(data, kind, title, experts))]


def _table(data: ReportData, kind: str, title: str, experts: list[str]) -> Table | None:
    counted = (data.results.get("routing") or {}).get(kind) or {}
    rows = (
        [Cell(group), *(number(words.fixed(row.get(name))) for name in experts),
         number(words.count(counted[group].get("tokens")))]
        for group, row in means(data, kind).items()
    )  # fmt: skip
    return table(f"Mean routing weight by {title}", [title, *map(words.name, experts), "tokens"], rows)


def information(data: ReportData) -> str:
    """What the weights tell of the domain, and what as many documents would tell by chance."""
    told = (data.results.get("routing") or {}).get("information") or {}
    if not all(words.known(told.get(name)) for name in ("bits", "by_chance", "by_chance_95", "p", "most")):
        return "What the weights tell of the domain was not measured: that takes two domains."
    verdict = "more than chance" if told["p"] < 0.05 else "no more than chance"
    return (
        f"A token's weights tell {told['bits']:.4f} bits of its document's domain, of {told['most']:.2f} that there "
        f"are to tell; with the domains dealt out to the {words.count(told.get('documents'))} documents anew it is "
        f"{told['by_chance']:.4f} bits on average, and less than {told['by_chance_95']:.4f} in 95% of "
        f"{words.count(told.get('permutations'))} dealings: {verdict} (p = {told['p']:.3f})."
    )
