"""Three pictures: loss curves, bits per byte, routing. Each takes the data and a width in points."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter, NullLocator

from nano_think.report import scores as scored
from nano_think.report.data import ReportData
from nano_think.report.palette import INK, LINE, MUTED, colour_of, text_on
from nano_think.report.svg import FONT, axes, canvas
from nano_think.report.words import fixed, known, share, short
from nano_think.report.words import name as spoken

PHONE = 400.0
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20, 30, 50, 100)


def fit(text: str, letters: int) -> str:
    """A label that stays in its place."""
    text = " ".join(text.split())
    return text if len(text) <= letters else text[: letters - 1] + "…"


def extent(frame: Axes) -> tuple[float, float]:
    """Width and height of the axes in points."""
    place, (width, height) = frame.get_position(), frame.figure.get_size_inches() * 72  # type: ignore[union-attr]
    return place.width * width, place.height * height


def curves(data: ReportData, width: float) -> Figure | None:
    """Loss over tokens, all trainings in one picture, each named at the end of its line."""
    lines = {name: points(log) for name, log in data.curves.items()}
    lines = {name: line for name, line in lines.items() if line}
    if not lines:
        return None
    figure = canvas(width, 300 if width > PHONE else 260)
    room = 108 if width > PHONE else 74
    frame = axes(figure, 24, 36, width - 24 - room, figure.get_figheight() * 72 - 60)
    for name, line in lines.items():
        frame.plot(*zip(*line, strict=True), color=colour_of(name, scored.expert_names(data)), lw=1.7, clip_on=False,
                   solid_capstyle="round", solid_joinstyle="round")  # fmt: skip
    _loss_axes(frame, lines, 5 if width > PHONE else 4)
    _name_ends(frame, lines, data, room)
    return figure


def points(log: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """(tokens, loss) of a training's log, without what a logarithmic axis cannot show."""
    pairs = [(entry.get("tokens"), entry.get("loss")) for entry in log]
    return [(x, y) for x, y in pairs if known(x) and known(y) and y > 0]


def _loss_axes(frame: Axes, lines: dict[str, list[tuple[float, float]]], ticks: int) -> None:
    losses = [y for line in lines.values() for _, y in line]
    frame.set_yscale("log")
    frame.set_ylim(min(losses) * 0.96, max(losses) * 1.02)
    low, high = frame.get_ylim()
    round_ones = [tick for tick in TICKS if low <= tick <= high]
    frame.yaxis.set_major_locator(FixedLocator(round_ones) if len(round_ones) > 1 else MaxNLocator(4))
    frame.yaxis.set_minor_locator(NullLocator())
    frame.yaxis.set_minor_formatter(NullFormatter())
    frame.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    frame.set_xlim(0, max(1, *(x for line in lines.values() for x, _ in line)))
    frame.xaxis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]))
    frame.xaxis.set_major_formatter(lambda value, _: short(value))
    frame.grid(axis="y")
    frame.spines["left"].set_visible(False)
    frame.set_xlabel("tokens seen", labelpad=6, loc="left")
    frame.set_title(
        "loss (nats per token, logarithmic)", fontsize=FONT, color=MUTED, loc="left", pad=12, x=-24 / extent(frame)[0]
    )


def _name_ends(frame: Axes, lines: dict[str, list[tuple[float, float]]], data: ReportData, room: float) -> None:
    """Names in the right margin at the height of each line's end, moved apart where they would touch."""
    low, high = (math.log(limit) for limit in frame.get_ylim())
    width, height = extent(frame)
    ends = {name: (math.log(line[-1][1]) - low) / (high - low) * height for name, line in lines.items()}
    places = spread(ends, 13.0)
    for name, line in lines.items():
        (x, y), colour = line[-1], colour_of(name, scored.expert_names(data))
        frame.plot([x], [y], "o", ms=4.5, color=colour, clip_on=False, zorder=5)
        text = f"{fit(spoken(name), 12)} {y:.2f}" if room > 100 else fit(spoken(name), 11)
        frame.annotate(
            text, (x, y), (1 + 12 / width, places[name] / height), textcoords="axes fraction", va="center",
            color=INK, annotation_clip=False, zorder=6,
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.8, "ls": ":", "relpos": (0, 0.5), "shrinkB": 3,
                        "shrinkA": 1, "mutation_scale": 1},
        )  # fmt: skip


def spread(wanted: Mapping[str, float], gap: float) -> dict[str, float]:
    """Heights at least `gap` apart, in the order of the wanted ones and nearest to them by least squares."""
    names = sorted(wanted, key=lambda name: wanted[name])
    # Without the gaps the heights need only not fall: isotonic regression, by pooling neighbours that do.
    pools: list[list[float]] = []
    for number, name in enumerate(names):
        pools.append([wanted[name] - gap * number])
        while len(pools) > 1 and fmean(pools[-2]) > fmean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    heights = [fmean(pool) for pool in pools for _ in pool]
    return {name: height + gap * number for number, (name, height) in enumerate(zip(names, heights, strict=True))}


def bars(data: ReportData, width: float) -> Figure | None:
    """Bits per byte: a panel per domain, a bar per scorer from zero, the value at its end, the best one in bold."""
    experts = scored.expert_names(data)
    panels = {domain: scored.scores(figures, experts) for domain, figures in scored.by_domain(data).items()}
    panels = {domain: values for domain, values in panels.items() if values}
    if len(panels) == 2:
        # One domain and the whole are the same text.
        del panels[scored.ALL]
    if not panels:
        return None
    names = list(dict.fromkeys(name for values in panels.values() for name in values))
    columns = 1 if width < PHONE else min(4, len(panels) if len(panels) < 5 else math.ceil(len(panels) / 2))
    left, gap, title, row = 76.0, 20.0, 22.0, 19.0
    inner = (width - left - gap * (columns - 1)) / columns
    tall, rows = title + row * len(names) + 12, math.ceil(len(panels) / columns)
    figure, most = canvas(width, tall * rows), max(max(values.values()) for values in panels.values())
    for number, (domain, values) in enumerate(panels.items()):
        line, column = divmod(number, columns)
        bottom = tall * (rows - 1 - line) + 8
        frame = axes(figure, left + column * (inner + gap), bottom, inner, row * len(names))
        frame.set_xlim(0, (most or 1) / (1 - 34 / inner))
        _panel(frame, domain, values, names, experts, named=column == 0)
    return figure


def _panel(
    frame: Axes, domain: str, values: dict[str, float], names: list[str], experts: list[str], named: bool
) -> None:
    best = scored.best(values)
    _rows(frame, [fit(spoken(name), 14) if named else "" for name in names])
    frame.set_title(fit(domain, 26), fontsize=FONT + 1, fontweight="bold", loc="left", pad=6, x=0)
    for place, name in enumerate(names):
        if name in values:
            frame.barh(place, values[name], height=0.66, color=colour_of(name, experts), linewidth=0)
            weight = "bold" if name == best else "normal"
            frame.annotate(fixed(values[name]), (values[name], place), (4, 0), textcoords="offset points",
                           va="center_baseline", fontweight=weight, color=INK)  # fmt: skip
    for label in frame.get_yticklabels():
        label.set_fontweight("bold" if label.get_text() == scored.OURS else "normal")


def _rows(frame: Axes, names: Sequence[str]) -> None:
    """Rows from the top, named at their left, and nothing else of an axis."""
    frame.set_ylim(len(names) - 0.5, -0.5)
    frame.set_yticks(range(len(names)), names, color=INK)
    frame.xaxis.set_visible(False)
    frame.spines["bottom"].set_visible(False)
    frame.spines["left"].set_color(LINE)


def weights(data: ReportData, width: float) -> Figure | None:
    """Routing: a bar per domain, cut by the experts' mean weights."""
    return stacks(scored.routing(data), scored.expert_names(data), width)


def stacks(rows: Mapping[str, Mapping[str, float]], experts: list[str], width: float) -> Figure | None:
    """A bar per row, cut by the experts' shares."""
    if not rows:
        return None
    columns = min(len(experts), 6 if width > PHONE else 3)
    head, row, left = 20.0 * math.ceil(len(experts) / columns) + 6, 27.0, 76.0
    figure = canvas(width, head + row * len(rows) + 4)
    frame = axes(figure, left, 2, width - left - 2, row * len(rows))
    frame.set_xlim(0, max(1.0, *(sum(parts.values()) for parts in rows.values())))
    _rows(frame, [fit(domain, 14) for domain in rows])
    for place, parts in enumerate(rows.values()):
        _stack(frame, place, parts, experts, (width - left) / frame.get_xlim()[1])
    # On a phone the legend starts left of the bars, to have the room.
    wide = width > PHONE
    legend(frame, experts, columns, 0 if wide else -left, 110 if wide else width / columns)
    return figure


def _stack(frame: Axes, place: int, parts: Mapping[str, float], experts: list[str], scale: float) -> None:
    start = 0.0
    for name, part in parts.items():
        colour = colour_of(name, experts)
        # The gap is the page showing through: an edge in its colour would have to know it.
        frame.barh(place, max(part - 1.5 / scale, 0), left=start, height=0.7, color=colour, linewidth=0)
        if part * scale > 26:
            frame.text(start + part / 2, place, share(part), ha="center", va="center_baseline", color=text_on(colour))
        start += part


def legend(frame: Axes, experts: list[str], columns: int, start: float, step: float, above: float = 0.0) -> None:
    """Squares and names `above` the axes, from `start` points right of their edge, `step` points apart."""
    rows, height = math.ceil(len(experts) / columns), extent(frame)[1]
    look: dict[str, Any] = {"xycoords": "axes points", "va": "center_baseline", "annotation_clip": False}
    for number, name in enumerate(experts):
        line, column = divmod(number, columns)
        x, y = start + column * step, height + above + 12 + 20 * (rows - 1 - line)
        frame.annotate("■", (x, y), color=colour_of(name, experts), **look)
        frame.annotate(fit(spoken(name), 14), (x + 12, y), color=INK, **look)
