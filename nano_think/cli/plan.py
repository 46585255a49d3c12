"""`nano-think plan`: what a run would do, and why."""

import json
from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from nano_think.cli.pipeline import PlanArguments, pipeline_arguments
from nano_think.core.console import clean, console, size
from nano_think.core.progress import format_seconds
from nano_think.stages.outlook import Outlook, look, refusal, seconds_of

COLOURS = {"fresh": "green", "stale": "yellow", "missing": "red", "half-made": "magenta"}
FEW = 3


def main(arguments: list[str]) -> int:
    tell(pipeline_arguments(PlanArguments, "plan", arguments))
    return 0


def tell(wanted: PlanArguments) -> None:
    """Print what a run with these arguments would do."""
    nodes, selection = wanted.nodes(), wanted.selection
    found = look(nodes, wanted.root, selection.choose(nodes), selection.force)
    seconds, known = seconds_of(nodes, found)
    memory = max((one.memory for one in found.values() if one.runs and one.memory), default=None)
    refused = refusal(nodes, found, wanted.root)
    if wanted.json:
        run = {"stages": sum(one.runs for one in found.values()), "seconds": seconds, "complete": known}
        told = {
            "stages": [one.to_json() for one in found.values()],
            "run": run | {"memory": memory, "refused": refused},
        }
        print(json.dumps(told))
        return
    out = console()
    out.print(_table(found))
    out.print()
    out.print(clean(f"a run would be refused: {refused}") if refused else _summary(found, seconds, known, memory))


def _table(found: Mapping[str, Outlook]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("stage", "state"):
        table.add_column(name, no_wrap=True)
    for name in ("time", "memory"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("why")
    for one in found.values():
        style = "" if one.chosen else "dim"
        table.add_row(
            clean(one.name), Text(one.state, style=COLOURS[one.state] if one.chosen else "dim"),
            _time(one.seconds), size(one.memory) if one.memory else "", clean(_why(one)), style=style,
        )  # fmt: skip
    return table


def _why(one: Outlook) -> str:
    waits = [reason.name for reason in one.why if reason.kind == "waits"]
    told = [str(reason) for reason in one.why if reason.kind != "waits"]
    told += [f"after {', '.join(waits)}"] if waits else []
    more = [f"and {len(told) - FEW} more (--json)"] if len(told) > FEW + 1 else []
    shown = [*told[:FEW], *more] if more else told
    aside = [] if one.chosen or one.state == "fresh" else ["not asked for"]
    return "; ".join([*aside, *shown])


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    return f"{seconds:.1f} s" if seconds < 10 else format_seconds(seconds)


def _summary(found: Mapping[str, Outlook], seconds: float, known: bool, memory: Any) -> str:
    count = sum(one.runs for one in found.values())
    if not count:
        return "nothing to do: every stage that was asked for is up to date"
    least = "" if known else "more than "
    most = f", the largest training in {size(memory)}" if memory else ""
    took = f"{least}{_time(seconds)}" if seconds or known else "an unknown time: nothing like it has been made here"
    return f"{count} of {len(found)} stages would be made, in {took}{most} (times and sizes of earlier runs)"
