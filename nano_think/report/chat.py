"""The page of a chat run: one HTML file that loads nothing and runs nothing."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from nano_think.core.config import flatten
from nano_think.report import concepts as drawn
from nano_think.report import words
from nano_think.report.pictures import NARROW, WIDE
from nano_think.report.tables import Cell, Table, code, number, table

FOLDER = Path(__file__).parent
MODELS = {"base": "base", "base_plain": "base, no marks", "chat": "chat model"}


@dataclass(frozen=True, kw_only=True)
class ChatReportData:
    """What the page shows."""

    preset: str
    created: str
    results: Mapping[str, Any]
    """As the chat evaluation wrote them: language, tasks, conversation, and concepts where the model has any."""
    sources: Sequence[Mapping[str, Any]]
    trainings: Mapping[str, Mapping[str, Any]]
    """Summaries of what was trained in this run, by stage."""
    artifacts: Mapping[str, Mapping[str, str]]
    config: Mapping[str, Any]


def render_chat(data: ChatReportData) -> str:
    """The page; every figure has its interval, its count and, where there is one, its chance level beside it."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    shown = (language, tasks, concepts, sources, trainings, artifacts, settings)
    found = data.results.get("concepts")
    return environment.get_template("chat.html").render(
        data=data, words=words, headline=headline(data.results), tables={one.__name__: one(data) for one in shown},
        concepts=drawn.pictures(found, WIDE, NARROW) if found else [],
        css=Markup((FOLDER / "report.css").read_text(encoding="utf-8")),
    )  # fmt: skip


def headline(results: Mapping[str, Any]) -> str:
    """What the chats have done to the base, in one sentence."""
    models, changes = results["language"]["models"], results["language"]["changes"]
    low, high = changes["base"]["interval"]
    return (
        f"{words.fixed(models['chat']['bits_per_byte'])} bits per byte of what the assistant says in held-out chats, "
        f"{changes['base']['change']:+.1%} ({low:+.1%} to {high:+.1%}) against the base."
    )


def language(data: ChatReportData) -> Table | None:
    """Bits per byte, by where the chats are from."""
    found = data.results["language"]
    rows = [_language(name, part) for name, part in found["domains"].items()] + [_language("all", found)]
    head = ["chats", *MODELS.values(), "change", "number", "bytes"]
    return table("Bits per byte of the assistant's text, with 95% intervals over chats", head, rows, total=True)


def _language(name: str, part: Mapping[str, Any]) -> list[Cell]:
    models = [
        number(f"{words.fixed(part['models'][key]['bits_per_byte'])} {_between(part['models'][key]['interval'])}")
        for key in MODELS
    ]
    change = part["changes"]["base"]
    low, high = change["interval"]
    told = number(f"{change['change']:+.1%} ({low:+.1%} to {high:+.1%})")
    return [Cell(name), *models, told, number(words.count(part["chats"])), number(words.count(part["bytes"]))]


def tasks(data: ChatReportData) -> Table | None:
    """Scores beside chance."""
    head = ["task", "kind", "base", "chat model", "chance", "items", "against chance"]
    return table("Right items, with 95% intervals (Wilson)", head, _tasks(data.results["tasks"]))


def _tasks(found: Mapping[str, Any]) -> Iterator[list[Cell]]:
    for name, by_model in found.items():
        scores = [by_model[model] for model in ("base", "chat")]
        shares = [number(f"{one['score']:.1%} {_between((one['low'], one['high']), '.1%')}") for one in scores]
        chance, items = (number(text) for text in (f"{scores[1]['chance']:.1%}", words.count(scores[1]["items"])))
        verdict = "above" if scores[1]["above_chance"] else "not told apart" if _holds(scores[1]) else "below"
        yield [Cell(name), Cell(scores[1]["kind"]), *shares, chance, items, Cell(verdict)]


def concepts(data: ChatReportData) -> Table | None:
    """Where held-out chats lie in the space of concepts; nothing of a model without."""
    found = data.results.get("concepts")
    return drawn.fullest(found) if found else None


def _holds(score: Mapping[str, Any]) -> bool:
    return score["low"] <= score["chance"] <= score["high"]


def _between(interval: Sequence[float], form: str = ".3f") -> str:
    return f"({interval[0]:{form}} to {interval[1]:{form}})"


def sources(data: ChatReportData) -> Table | None:
    """Whose words these are."""
    rows = (
        [Cell(one["name"]), number(words.count(one["documents"])), Cell(one["licence"], "long"),
         Cell(one["origin"], "long")]
        for one in data.sources
    )  # fmt: skip
    return table("Chats", ["source", "chats", "licence", "from"], rows)


def trainings(data: ChatReportData) -> Table | None:
    """What was trained, for how long."""
    rows = (
        [Cell(name), number(words.count(one["training"]["tokens"])), number(words.fixed(one["training"]["loss"])),
         number(words.seconds(one["training"]["seconds"])), number(f"{one['epochs']:.2f}")]
        for name, one in data.trainings.items()
    )  # fmt: skip
    return table("Trainings", ["stage", "tokens", "last loss (nats)", "time", "epochs"], rows)


def artifacts(data: ChatReportData) -> Table | None:
    rows = ([Cell(name), code(one["key"]), code(one["digest"][:16])] for name, one in data.artifacts.items())
    return table("Artifacts", ["stage", "key", "digest"], rows)


def settings(data: ChatReportData) -> Table | None:
    return table("Settings", ["name", "value"], ([Cell(name), code(value)] for name, value in flatten(data.config)))


def markdown(data: ChatReportData) -> str:
    """The scores as a Markdown table, for the console and for notes."""
    lines = []
    for one in (language(data), tasks(data)):
        if one:
            lines += [f"| {' | '.join(one.head)} |", f"|{'---|' * len(one.head)}"]
            lines += [f"| {' | '.join(cell.text for cell in row)} |" for row in one.rows] + [""]
    return "\n".join(lines)
