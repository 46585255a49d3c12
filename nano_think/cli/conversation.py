"""A conversation in the terminal: its turns and its commands.

What a model says is printed without control characters: it cannot move the cursor, colour the screen or name the
window. Colours are ours alone, and only where a terminal shows them.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.style import Style
from rich.text import Text

from nano_think.cli.signals import go_on_after
from nano_think.core.console import clean
from nano_think.core.errors import InputError, NanoThinkError, UsageError, nearest, storage
from nano_think.core.files import read_json, write_json
from nano_think.inference.means import mean_figures, mean_weights
from nano_think.inference.request import Event, Memory, expect_dials, parse_dials
from nano_think.inference.sampling import SamplingConfig
from nano_think.memory.namespaces import Namespaces
from nano_think.parts import Dials
from nano_think.report.palette import EXPERTS, slot
from nano_think.stages.talking import Talker

HELP = {
    "/help": "what can be done",
    "/reset": "begin a new conversation",
    "/save FILE": "write what was said as JSON",
    "/load FILE": "go on from what was said in a file",
    "/temp NUMBER": "how freely words are drawn (0: always the likeliest)",
    "/memory [off|read|read-write]": "what is remembered, or what is done with it",
    "/psyche [NAME=NUMBER ...]": "turn up modes, as in superego=4, or tell how they stand; off: none",
    "/experts": "a bar of the experts' weights for each word of the last answer",
    "/quit": "end",
}
BAR = 24


@dataclass(kw_only=True)
class Conversation:
    """The talker, what the next turn is drawn with, and the events of the last answer."""

    talker: Talker
    namespaces: Namespaces
    sampling: SamplingConfig
    max_new_tokens: int
    memory: Memory
    namespace: str
    psyche: Dials = field(default_factory=dict)
    best: int = 1
    console: Console = field(default_factory=lambda: Console(highlight=False, soft_wrap=True))
    last: list[Event] = field(default_factory=list)
    over: bool = False

    def take(self, text: str) -> None:
        """Answer what was typed, or do what it commands; a mistake is told and ends nothing."""
        try:
            if text.startswith("/"):
                self._command(text)
            else:
                self._answer(text)
        except (NanoThinkError, OSError) as error:
            self.console.print(Text(clean(str(error)), style="red"))

    def _answer(self, text: str) -> None:
        self.last = []
        usual = (self.max_new_tokens, self.sampling, self.memory, self.namespace, self.psyche, self.best)
        events = self.talker.stream(text, *usual)
        try:
            for event in events:
                self.last.append(event)
                self.console.print(tinted(event), end="")
        except KeyboardInterrupt as interrupt:
            events.close()  # type: ignore[attr-defined]
            go_on_after(interrupt)
            self.console.print(" (stopped)", end="", style="dim")
        self.console.print()
        if self.last and self.last[-1].error:
            self.console.print(Text(f"not remembered: {clean(self.last[-1].error)}", style="red"))
        self._sum_up()

    def _sum_up(self) -> None:
        """The means over the answer: weights, where there are several to tell apart, and figures."""
        means, told = mean_weights(self.last), figures_in_words(self.last)
        if len(means) > 1:
            told = [in_words(self.talker.names, means), *told]
        if told:
            line = bar(means).append("  ") if len(means) > 1 else Text()
            self.console.print(line.append(", ".join(told), style="dim"))

    def _command(self, text: str) -> None:
        name, _, rest = text[1:].partition(" ")
        commands = {
            "help": self._help, "reset": self._reset, "save": self._save, "load": self._load, "temp": self._temp,
            "memory": self._memory, "psyche": self._psyche, "experts": self._experts, "quit": self._quit,
        }  # fmt: skip
        if name not in commands:
            raise UsageError(f"unknown command '/{name[:40]}'.{nearest(name, commands)}")
        commands[name](rest.strip())

    def _help(self, _: str) -> None:
        for name, summary in HELP.items():
            self.console.print(f"{name:<30} {summary}", markup=False)

    def _reset(self, _: str) -> None:
        self.talker.reset()
        self.last = []

    def _save(self, file: str) -> None:
        path = _path(file, "/save")
        if path.is_dir() or not path.parent.is_dir():
            raise UsageError(f"/save: {path}: wanted a file in a folder that exists")
        with storage(path):
            write_json(path, {"messages": self.talker.messages})
        self.console.print(Text(f"{len(self.talker.messages)} messages in {path}"))

    def _load(self, file: str) -> None:
        path = _path(file, "/load")
        if not path.is_file():
            raise UsageError(f"{path}: no such file")
        self.talker.reset(_messages(read_json(path), path))
        self.console.print(Text(f"{len(self.talker.messages)} messages from {path}"))

    def _temp(self, value: str) -> None:
        try:
            self.sampling = replace(self.sampling, temperature=float(value))
        except ValueError:
            raise UsageError(f"/temp: wanted a number from 0 on, got {value[:40]!r}") from None

    def _memory(self, mode: str) -> None:
        if mode in ("off", "read", "read-write"):
            self.memory = mode  # type: ignore[assignment]
        elif mode:
            raise UsageError(f"/memory: wanted off, read or read-write, got {mode[:40]!r}")
        count = len(self.namespaces(self.namespace, write=False))
        self.console.print(Text(f"{self.memory}; '{self.namespace}' holds {count:,} entries"))

    def _psyche(self, text: str) -> None:
        if text:
            dials = {} if text == "off" else parse_dials(text)
            expect_dials(dials, self.talker.dials)
            self.psyche = dials
        standing = [f"{name} {self.psyche.get(name, 0.0):g}" for name in self.talker.dials]
        self.console.print(Text(", ".join(standing) or "this model has no psyche"))

    def _experts(self, _: str) -> None:
        names = self.talker.names
        for event in self.last:
            if event.weights:
                word = json.dumps(clean(event.text), ensure_ascii=False)
                self.console.print(bar(event.weights).append(f"  {in_words(names, event.weights)}  {word}"))

    def _quit(self, _: str) -> None:
        self.over = True


def tinted(event: Event) -> Text:
    """A token's text in the colour of the expert that was trusted most."""
    if not event.weights:
        return Text(clean(event.text))
    return Text(clean(event.text), style=colour(event.weights.index(max(event.weights))))


def bar(weights: Sequence[float]) -> Text:
    """The weights as a bar of `BAR` cells, each expert in its colour and with its own filling."""
    ends = [round(BAR * sum(weights[: n + 1])) for n in range(len(weights))]
    text = Text()
    for n, (first, end) in enumerate(zip([0, *ends], ends, strict=False)):
        text.append("█▓▒░"[n % 4] * (end - first), style=colour(n))
    return text


def colour(expert: int) -> Style:
    return Style(color=EXPERTS[slot(expert)])


def in_words(names: Sequence[str], weights: Sequence[float]) -> str:
    return ", ".join(f"{name.replace('_', '-')} {weight:.0%}" for name, weight in zip(names, weights, strict=True))


def figures_in_words(events: Sequence[Event]) -> list[str]:
    """The means over an answer of what the model's parts told."""
    return [f"{name.replace('_', ' ')} {mean:.2f}" for name, mean in mean_figures(events).items()]


def _path(file: str, command: str) -> Path:
    if not file:
        raise UsageError(f"{command}: wanted the name of a file")
    try:
        return Path(file).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{command}: {file}: {error}") from None


def _messages(values: Any, path: Path) -> list[dict[str, str]]:
    messages = values.get("messages") if isinstance(values, dict) else None
    fitting = isinstance(messages, list) and all(
        isinstance(one, dict) and one.keys() == {"role", "content"} and all(isinstance(v, str) for v in one.values())
        for one in messages
    )
    if not fitting:
        raise InputError(f"{path}: wanted messages of role and content, as /save writes them")
    return list(messages or [])
