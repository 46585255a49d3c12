"""How long documents are: a histogram per domain over powers of two."""

import math
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from nano_think.data.statistics import median_bin
from nano_think.report.data import ReportData
from nano_think.report.palette import INK, LINE, MUTED, QUIET
from nano_think.report.plots import PHONE, fit
from nano_think.report.svg import FONT, axes, canvas
from nano_think.report.words import known, power_of_two, share, short

Bins = dict[int, float]
# Height of a panel (points).
TALL = 84.0


def histograms(data: ReportData) -> dict[str, Bins]:
    """Domain -> {k: documents of 2^k to 2^(k+1) - 1 bytes}, domains and bins in order, nothing empty."""
    return {domain: bins for domain, counts in sorted(data.lengths.items()) if (bins := _bins(counts))}


def _bins(counts: Mapping[str, Any] | None) -> Bins:
    pairs = ((int(k), count) for k, count in (counts or {}).items() if str(k).isdecimal())
    return dict(sorted((k, count) for k, count in pairs if known(count) and count > 0))


def lengths(data: ReportData, width: float) -> Figure | None:
    """A panel per domain: the share of its documents in each bin, the median's bin darker, scales shared."""
    found = histograms(data)
    if not found:
        return None
    columns = 1 if width < PHONE else min(4, len(found) if len(found) < 5 else math.ceil(len(found) / 2))
    rows, gap, foot, head = math.ceil(len(found) / columns), 28.0, 24.0, 44.0
    inner, step = (width - gap * (columns - 1) - 4) / columns, foot + head + TALL
    figure = canvas(width, step * rows)
    first, last = min(map(min, found.values())), max(map(max, found.values()))
    most = max(max(bins.values()) / sum(bins.values()) for bins in found.values())
    for number, (domain, bins) in enumerate(found.items()):
        line, column = divmod(number, columns)
        frame = axes(figure, 2 + column * (inner + gap), step * (rows - 1 - line) + foot, inner, TALL)
        frame.set_xlim(first - 0.1, max(last, first + 3) + 1.1)
        frame.set_ylim(0, most * 1.16)
        _panel(frame, domain, bins, inner)
    return figure


def _panel(frame: Axes, domain: str, bins: Bins, width: float) -> None:
    total, median = sum(bins.values()), median_bin(bins)
    # One document among thousands is to be seen too.
    least = frame.get_ylim()[1] / TALL
    for k, count in bins.items():
        frame.bar(
            k, max(count / total, least), width=0.86, align="edge", color=INK if k == median else QUIET, linewidth=0
        )
    frame.annotate(share(bins[median] / total), (median + 0.43, bins[median] / total), (0, 3), ha="center",
                   textcoords="offset points", color=INK)  # fmt: skip
    above: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "annotation_clip": False}
    frame.annotate(fit(domain, 26), (0, 1), (0, 22), color=INK, fontweight="bold", fontsize=FONT + 1, **above)
    half = f"{short(total)} documents, median {power_of_two(median)} to {power_of_two(median + 1)}"
    frame.annotate(half, (0, 1), (0, 8), color=MUTED, **above)
    frame.yaxis.set_visible(False)
    frame.spines["left"].set_visible(False)
    frame.spines["bottom"].set_color(LINE)
    low, high = frame.get_xlim()
    # A label takes about 44 points.
    apart = max(2, math.ceil((high - low) * 44 / width))
    frame.xaxis.set_major_locator(FixedLocator(range(math.ceil(low / apart) * apart, math.floor(high) + 1, apart)))
    frame.xaxis.set_major_formatter(lambda k, _: power_of_two(round(k)))
