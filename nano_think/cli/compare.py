"""`nano-think compare RUN RUN`: two finished runs side by side."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.table import Table

from nano_think.cli.arguments import parse_arguments
from nano_think.core.config import flatten
from nano_think.core.console import clean, console
from nano_think.core.files import read_json
from nano_think.stages.artifact import Artifact
from nano_think.stages.contest import Verdict, compare
from nano_think.stages.runs import FinishedRun, find_run

LEVELS, COLUMNS = "▁▂▃▄▅▆▇█", 32
CURVE = "curve.json"


@dataclass(frozen=True, kw_only=True)
class CompareArguments:
    """Two finished runs: what they were told differently, bits per byte by scorer and domain, the difference of their
    mixtures with its interval over documents, and their losses over tokens.
    """

    runs: Annotated[tuple[str, str], tyro.conf.Positional]
    """"latest", "champion", the folder of a report, or the beginning of its key."""
    root: Path = Path("artifacts")
    """Artifact root."""
    json: bool = False
    """Print one JSON object with all of it on the last line."""


def main(arguments: list[str]) -> int:
    wanted = parse_arguments(CompareArguments, "compare", arguments)
    one, other = (find_run(what, wanted.root) for what in wanted.runs)
    figures = [dict(_figures(run.artifact("evaluate").summary)) for run in (one, other)]
    settings, verdict = changed(one.config, other.config), compare(one, other)
    if wanted.json:
        pairs = zip((one, other), figures, strict=True)
        runs = [{"run": run.report.key, "name": run.name, "figures": found} for run, found in pairs]
        print(json.dumps({"runs": runs, "settings": settings, "mixture": asdict(verdict)}))
        return 0
    out = console()
    heads = [f"{clean(run.name[:COLUMNS])} ({run.report.key[:8]})" for run in (one, other)]
    out.print(_table(["setting", *heads], [[name, *map(str, pair)] for name, pair in settings.items()]))
    out.print()
    out.print(_table(["bits per byte", *heads, "second / first"], _rows(*figures)))
    out.print(f"\n{told(verdict)}\n")
    out.print(_table(["loss over tokens", *heads], _curves(one, other)))
    return 0


def changed(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Dotted name -> both values, of the settings that differ."""
    first, second = dict(flatten(one)), dict(flatten(other))
    names = dict.fromkeys([*first, *second])
    return {name: [first.get(name), second.get(name)] for name in names if first.get(name) != second.get(name)}


def told(verdict: Verdict) -> str:
    """The comparison of the mixtures in a sentence."""
    if not verdict.comparable or verdict.change is None or verdict.low is None or verdict.high is None:
        return "evaluated on different documents: the figures cannot be compared"
    sure = (
        "which chance in the choice of documents does not explain"
        if verdict.low * verdict.high > 0
        else "no difference"
    )
    span = f"95% interval over documents {verdict.low:+.2%} to {verdict.high:+.2%}"
    change = f"the first mixture needs {verdict.change:+.2%} bits against the second"
    how = "calibrated" if verdict.calibrated else "not calibrated"
    return f"{change} ({span}; {how}, memory off): {sure}"


def _figures(results: Mapping[str, Any]) -> list[tuple[str, float]]:
    rows = [(name, value) for name, value in results["experts"].items()]
    rows += [("uniform", results["uniform"]), ("mixture", results["bits_per_byte"])]
    rows += [("dense", results["dense"])] if results.get("dense") is not None else []
    calibrated = results.get("calibrated") or {}
    rows += [("mixture, calibrated", calibrated["bits_per_byte"])] if calibrated else []
    return rows + [(f"mixture on {name}", part["bits_per_byte"]) for name, part in results["domains"].items()]


def _rows(one: Mapping[str, float], other: Mapping[str, float]) -> list[list[str]]:
    rows = []
    for name in dict.fromkeys([*one, *other]):
        values = [found.get(name) for found in (one, other)]
        first, second = values
        ratio = f"{second / first - 1:+.2%}" if first and second else ""
        rows.append([clean(name), *("" if value is None else f"{value:.3f}" for value in values), ratio])
    return rows


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for index, head in enumerate(heads):
        table.add_column(head, justify="left" if index == 0 else "right")
    for row in rows or [["none differs", *[""] * (len(heads) - 1)]]:
        table.add_row(*row)
    return table


def _curves(one: FinishedRun, other: FinishedRun) -> list[list[str]]:
    """The losses of each training that both have, on one scale and one axis of tokens."""
    rows = []
    for stage in one.places:
        if stage == "report" or stage not in other.places:
            continue
        curves = [_curve(run.artifact(stage)) for run in (one, other)]
        if all(curves):
            losses = [loss for curve in curves for _, loss in curve]
            low, high, most = min(losses), max(losses), max(curve[-1][0] for curve in curves)
            rows.append([stage, *(_line(curve, low, high, most) for curve in curves)])
    return rows


def _curve(artifact: Artifact) -> list[tuple[int, float]]:
    if CURVE not in artifact.manifest["files"]:
        return []
    return [(point["tokens"], point["loss"]) for point in read_json(artifact.path / CURVE)]


def _line(curve: Sequence[tuple[int, float]], low: float, high: float, most: int) -> str:
    """The last loss in each of some equal parts of the axis, as bars, and the last of all as a figure."""
    bars = [" "] * COLUMNS
    for tokens, loss in curve:
        level = round((loss - low) / ((high - low) or 1) * (len(LEVELS) - 1))
        bars[min(COLUMNS - 1, tokens * COLUMNS // (most + 1))] = LEVELS[level]
    return f"{''.join(bars)} {curve[-1][1]:.3f}"
