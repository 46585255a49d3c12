"""The page: one HTML file that loads nothing, runs nothing, and is the same for the same data."""

from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from nano_think.report import ablation, headline, routing, scores, tables, words
from nano_think.report.data import ReportData
from nano_think.report.palette import slot
from nano_think.report.pictures import NARROW, PICTURES, WIDE, picture
from nano_think.report.samples import samples

FOLDER = Path(__file__).parent
TABLES = (
    "results", "memory", "trainings", "routing", "sources", "left_out", "domains", "splits", "cleaning", "parameters",
    "times", "settings", "compute", "artifacts", "versions",
)  # fmt: skip


def render(data: ReportData) -> str:
    """The report as a self-contained HTML page; what is missing in `data` becomes a sentence."""
    return _template().render(
        data=data,
        words=words,
        says=headline,
        css=Markup((FOLDER / "report.css").read_text(encoding="utf-8")),
        pictures=_pictures(data),
        tables={name: getattr(tables, name)(data) for name in TABLES}
        | {"ablation": ablation.ablation(data), "control": ablation.control(data)},
        control=ablation.shape(data),
        routes=routing.groups(data),
        information=routing.information(data),
        samples=samples(data),
        legend=[(words.name(name), slot(number)) for number, name in enumerate(scores.expert_names(data))],
    )


def _pictures(data: ReportData) -> dict[str, Any]:
    """Each picture in its wide and its narrow form, of which the page shows the one that fits."""
    drawn = {name: (picture(data, name, WIDE), picture(data, name, NARROW)) for name in PICTURES}
    return {name: [Markup(form) for form in forms if form] for name, forms in drawn.items()}


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("report.html")
