"""Telling people what is going on: bars with an estimate on a terminal, plain lines elsewhere, nothing in tests."""

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

PLAIN_SECONDS = 10.0


class Quiet:
    """Says nothing; the base of what says something."""

    def start(self, stage: str) -> None:
        """A stage begins to make its artifact."""

    def fresh(self, stage: str, key: str) -> None:
        """A stage has nothing to do."""

    def done(self, stage: str, seconds: float) -> None:
        """A stage has finished its artifact."""

    def note(self, text: str) -> None:
        """A line worth reading."""

    def event(self, stage: str, event: dict[str, Any]) -> None:
        """A line of a training's log: how far it is."""

    def stop(self) -> None:
        """Leave the terminal as it was."""


Progress = Quiet


class Plain(Quiet):
    """One line per event, and one every ten seconds per training: for logs."""

    def __init__(self, write: Callable[[str], None] | None = None):
        self._write = write or (lambda line: print(line, file=sys.stderr, flush=True))
        self._told: dict[str, float] = {}
        self._guard = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        """On its way to a process of a cluster: there it writes to its own standard error."""
        return Plain, ()

    def start(self, stage: str) -> None:
        self.note(f"{stage}: started")

    def fresh(self, stage: str, key: str) -> None:
        self.note(f"{stage}: up to date ({key})")

    def done(self, stage: str, seconds: float) -> None:
        self.note(f"{stage}: done in {seconds:.1f} s")

    def note(self, text: str) -> None:
        with self._guard:
            self._write(text)

    def event(self, stage: str, event: dict[str, Any]) -> None:
        if event["event"] == "resumed":
            self.note(f"{stage}: goes on from step {event['step']} of {event['steps']}")
        elif event["event"] == "compute":
            self.note(f"{stage}: " + ", ".join(f"{name} {value}" for name, value in event.items() if name != "event"))
        elif event["event"] == "warning":
            self.note(f"{stage}: {event['message']}")
        elif event["event"] == "validation":
            self.note(f"{stage}: validation loss {event['loss']:.4f} at step {event['step']}")
        elif event["event"] == "step" and self._due(stage, event):
            self.note(f"{stage}: {describe(event)}")

    def _due(self, stage: str, event: dict[str, Any]) -> bool:
        now = time.monotonic()
        if now - self._told.get(stage, -PLAIN_SECONDS) < PLAIN_SECONDS and event["step"] < event["steps"]:
            return False
        self._told[stage] = now
        return True


def describe(event: dict[str, Any]) -> str:
    """A training's step as words: where it is, its loss, its speed, the share of the machine's own, the time left."""
    speed = event["tokens_per_second"]
    left = (event["steps"] - event["step"]) * event["tokens"] / event["step"] / max(speed, 1e-9)
    place = f"step {event['step']}/{event['steps']}"
    share = f"  MFU {event['mfu']:.0%}" if "mfu" in event else ""
    return f"{place}  loss {event['loss']:.3f}  {speed:,.0f} tokens/s{share}  {format_seconds(left)} left"


def format_seconds(seconds: float) -> str:
    """Seconds as 42 s, 3 min 05 s or 2 h 10 min."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


class Terminal(Quiet):
    """A bar per training with loss, tokens per second and the time left; a line per finished stage above them."""

    def __init__(self, console: Console):
        self._bars = Bars(
            TextColumn("  {task.description:<12}"), BarColumn(bar_width=28),
            TextColumn("{task.percentage:>3.0f}%  {task.fields[note]}"), TimeRemainingColumn(compact=True),
            console=console, transient=True,
        )  # fmt: skip
        self._tasks: dict[str, TaskID] = {}
        self._guard = threading.Lock()
        self._bars.start()

    def start(self, stage: str) -> None:
        with self._guard:
            self._tasks[stage] = self._bars.add_task(stage, total=None, note="")

    def fresh(self, stage: str, key: str) -> None:
        self._bars.console.print(f"[dim]- {stage:<12} up to date ({key})[/dim]", highlight=False)

    def done(self, stage: str, seconds: float) -> None:
        with self._guard:
            self._bars.remove_task(self._tasks.pop(stage))
        self._bars.console.print(f"[green]+[/green] {stage:<12} {format_seconds(seconds)}", highlight=False)

    def note(self, text: str) -> None:
        self._bars.console.print(text, markup=False, highlight=False)

    def event(self, stage: str, event: dict[str, Any]) -> None:
        with self._guard:
            if event["event"] == "step" and stage in self._tasks:
                note = f"loss {event['loss']:.3f}  {event['tokens_per_second']:,.0f} tokens/s"
                self._bars.update(self._tasks[stage], total=event["steps"], completed=event["step"], note=note)
            elif event["event"] == "warning":
                self.note(f"  {stage}: {event['message']}")
            elif event["event"] == "resumed":
                self.note(f"  {stage} goes on from step {event['step']} of {event['steps']}")

    def stop(self) -> None:
        self._bars.stop()


def choose_progress() -> Progress:
    """Bars where standard error is a terminal, plain lines elsewhere."""
    console = Console(stderr=True)
    return Terminal(console) if console.is_terminal else Plain()
