"""matplotlib figures as SVG that belongs to a page: its font, its colours in light and dark, nothing from elsewhere.

Figures are laid out in points on a fixed canvas. No pyplot: figures without a global state can be drawn in any thread.
"""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nano_think.report.palette import INK, LINE, MUTED, VARIABLES, css

FONT = 9.0
SETTINGS: Any = {
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": FONT, "text.color": INK,
    # Names of domains are not formulas: a lone $ in one would be an error.
    "text.parse_math": False, "text.usetex": False,
    "axes.facecolor": "none", "axes.edgecolor": LINE, "axes.labelcolor": MUTED, "axes.linewidth": 0.8,
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "xtick.color": LINE, "ytick.color": LINE, "xtick.labelcolor": MUTED, "ytick.labelcolor": MUTED,
    "xtick.major.size": 0, "ytick.major.size": 0, "xtick.minor.size": 0, "ytick.minor.size": 0,
    "xtick.major.pad": 5, "ytick.major.pad": 5, "grid.color": LINE, "grid.linewidth": 0.8,
    "svg.fonttype": "none", "svg.hashsalt": "nano_think", "path.simplify": True,
}  # fmt: skip
# Text stays text, so that it takes the page's font and can be read aloud and searched.
_FAMILY = re.compile(r"font-family: [^;\"]*; ")


@contextmanager
def drawing() -> Iterator[None]:
    """Our settings whatever the user's are; silence about letters that the PNG's font lacks, for browsers have more."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        yield


def canvas(width: float, height: float) -> Figure:
    """An empty figure of `width` x `height` points."""
    return Figure(figsize=(width / 72, height / 72))


def axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place given in points."""
    whole_width, whole_height = figure.get_figwidth() * 72, figure.get_figheight() * 72
    return figure.add_axes((left / whole_width, bottom / whole_height, width / whole_width, height / whole_height))


def to_svg(figure: Figure, name: str, label: str) -> str:
    """The figure as an `<svg>` element for an HTML page; `name` keeps its ids apart from other pictures' ids."""
    buffer = io.BytesIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue().decode()
    body = text[text.index(">", text.index("<svg")) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    width, height = (round(inches * 72) for inches in figure.get_size_inches())
    opening = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
    return opening + _in_page(_own_ids(body, name)).strip()


def _own_ids(body: str, name: str) -> str:
    body = body.replace("xlink:href", "href")
    used = set(re.findall(r'(?:url\(|href=")#([\w-]+)', body))
    body = re.sub(r' id="([\w.-]+)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", body)
    return re.sub(r'(url\(|href=")#', rf"\1#{name}-", body)


def _in_page(body: str) -> str:
    def colour(found: re.Match) -> str:
        return css(found[0]) if found[0] in VARIABLES else found[0]

    # Only inside tags: a domain may be called like a colour.
    return re.sub(r"<[^>]+>", lambda tag: re.sub(r"#[0-9a-f]{6}\b", colour, _FAMILY.sub("", tag[0])), body)


def save_png(figure: Figure, path: Path) -> Path:
    """Write the figure as PNG on white, without dates or names of programs."""
    figure.savefig(
        path, format="png", dpi=160, facecolor="white", bbox_inches="tight", pad_inches=0.2, metadata={"Software": None}
    )
    return path
