"""The space of a chat model's concepts: a map of its first eight bits, and the same in words."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nano_think.report import words
from nano_think.report.palette import EXPERTS, INK, LINE, MUTED, slot, text_on
from nano_think.report.plots import PHONE, fit
from nano_think.report.svg import FONT, axes, canvas, drawing, to_svg
from nano_think.report.tables import Cell, Table, number, table

SIDE, NAMED = 16, 12
"""Cells of a side of the map; cells that have a number, and a row in the table."""
# Shapes beside the colours, for those who cannot tell these apart.
MARKS = ("o", "s", "^", "D", "v", "P")


def domains_of(found: Mapping[str, Any]) -> list[str]:
    """Where the pieces are from, the largest source first."""
    totals: dict[str, int] = {}
    for cell in found["cells"]:
        for domain, pieces in cell["domains"].items():
            totals[domain] = totals.get(domain, 0) + pieces
    return sorted(totals, key=lambda domain: (-totals[domain], domain))


def pictures(found: Mapping[str, Any], wide: float, narrow: float) -> list[Markup]:
    """The map for a page and for a phone, as SVG elements."""
    with drawing():
        return [
            Markup(to_svg(concepts(found, width), f"concepts-{width:.0f}", label(found))) for width in (wide, narrow)
        ]


def label(found: Mapping[str, Any]) -> str:
    """What the map shows, for those who do not see it; the table says the rest."""
    fullest = found["cells"][0]
    text = " ".join(fullest["text"].split())
    return (
        f"Map of {words.count(found['pieces'])} pieces of held-out chats on the first eight bits of their concepts: "
        f"{len(found['cells'])} of {SIDE * SIDE} cells hold any; the fullest, {fullest['bits']}, holds "
        f"{words.count(fullest['pieces'])}, as in: {text}"
    )


def concepts(found: Mapping[str, Any], width: float) -> Figure:
    """A mark for each cell that holds pieces, its area in proportion to their number, in the colour and shape of the
    domain that most of them are from.
    """
    side, domains = min(width, 520.0) - 30, domains_of(found)
    columns = 3 if width > PHONE else 2
    rows = -(-len(domains) // columns)
    figure = canvas(width, side + 34 + 20 * rows)
    frame = axes(figure, 26, 26, side, side)
    _grid(frame)
    most, cell = found["cells"][0]["pieces"], side / SIDE
    for place, one in enumerate(found["cells"]):
        first = domains.index(next(iter(one["domains"])))
        area = (0.92 * cell) ** 2 * one["pieces"] / most
        colour = EXPERTS[slot(first)]
        frame.scatter(
            one["column"], one["row"], s=max(area, 2.5), marker=MARKS[slot(first)], color=colour, linewidths=0
        )
        if place < NAMED and width > PHONE:
            _name(frame, one, str(place + 1), colour, inside=area**0.5 > 13)
    _legend(frame, domains, columns, side)
    return figure


def _grid(frame: Axes) -> None:
    frame.set_xlim(-0.5, SIDE - 0.5)
    frame.set_ylim(SIDE - 0.5, -0.5)
    frame.set_xticks([]), frame.set_yticks([])
    for place in range(0, SIDE + 1, 4):
        look: dict[str, Any] = {"color": LINE, "lw": 1.6 if place == SIDE // 2 else 0.8, "zorder": 0}
        frame.axvline(place - 0.5, **look), frame.axhline(place - 0.5, **look)
    for spine in frame.spines.values():
        spine.set_visible(False)
    frame.set_xlabel("bits 1, 3, 5, 7: a step to the side changes one", color=MUTED, loc="left", labelpad=6)
    frame.set_ylabel("bits 2, 4, 6, 8", color=MUTED, loc="top", labelpad=6)


def _name(frame: Axes, cell: Mapping[str, Any], text: str, colour: str, inside: bool) -> None:
    place = (cell["column"], cell["row"])
    if inside:
        frame.text(*place, text, ha="center", va="center_baseline", color=text_on(colour), fontsize=FONT)
    else:
        frame.annotate(text, place, (6, 5), textcoords="offset points", color=INK, fontsize=FONT - 1)


def _legend(frame: Axes, domains: Sequence[str], columns: int, side: float) -> None:
    step, rows = side / columns, -(-len(domains) // columns)
    for place, domain in enumerate(domains):
        row, column = divmod(place, columns)
        x, y = column * step + 5, side + 10 + 20 * (rows - 1 - row)
        frame.scatter(
            [x / side], [y / side], s=42, marker=MARKS[slot(place)], color=EXPERTS[slot(place)], linewidths=0,
            transform=frame.transAxes, clip_on=False,
        )  # fmt: skip
        frame.annotate(fit(domain, 16), (x + 9, y), xycoords="axes points", va="center_baseline", color=INK,
                       annotation_clip=False)  # fmt: skip


def fullest(found: Mapping[str, Any]) -> Table | None:
    """The cells that hold the most."""
    rows = (
        [Cell(f"{place}"), Cell(one["bits"], "code"), number(words.count(one["pieces"])),
         Cell(_mostly(one["domains"])), Cell(" ".join(one["text"].split()), "long")]
        for place, one in enumerate(found["cells"][:NAMED], 1)
    )  # fmt: skip
    head = ["cell", "first eight bits", "pieces", "mostly from", "words of the piece furthest inside"]
    held = words.share(sum(one["pieces"] for one in found["cells"][:NAMED]) / found["pieces"])
    caption = (
        f"The {min(NAMED, len(found['cells']))} fullest of {len(found['cells'])} cells, with {held} of "
        f"{words.count(found['pieces'])} pieces of up to {found['length']} tokens"
    )
    return table(caption, head, rows)


def _mostly(domains: Mapping[str, int]) -> str:
    name, pieces = next(iter(domains.items()))
    return f"{name} ({words.share(pieces / sum(domains.values()))})"
