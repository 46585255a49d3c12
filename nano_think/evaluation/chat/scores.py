"""The score of a task, and what it is worth: the chance level, the number of items and an interval beside it."""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from nano_think.data.chat_made import Question
from nano_think.data.tokenizer import Tokenizer
from nano_think.evaluation.chat.answers import answers
from nano_think.evaluation.chat.likelihood import Row, nats_of
from nano_think.evaluation.chat.sandbox import runs_well
from nano_think.evaluation.chat.tasks import Choice, Item, Program, items_of, parse_spec
from nano_think.models.chat import Model

Z = 1.959964


@dataclass(frozen=True, kw_only=True)
class Score:
    """Right items of a task. chance: what knows nothing gets (a random choice; always the commonest answer)."""

    task: str
    kind: str
    right: int
    items: int
    chance: float

    @property
    def share(self) -> float:
        return self.right / self.items

    @property
    def interval(self) -> tuple[float, float]:
        """95%, after Wilson (1927): never below 0 or above 1, and not a point where all or none are right."""
        p, n = self.share, self.items
        middle, half = p + Z**2 / (2 * n), Z * math.sqrt(p * (1 - p) / n + (Z / (2 * n)) ** 2)
        low, high = (middle - half) / (1 + Z**2 / n), (middle + half) / (1 + Z**2 / n)
        # Rounding must not leave what can be.
        return max(0.0, low), min(1.0, high)

    def to_dict(self) -> dict[str, Any]:
        low, high = self.interval
        plain = {"task": self.task, "kind": self.kind, "score": self.share, "low": low, "high": high}
        return plain | {"chance": self.chance, "items": self.items, "above_chance": low > self.chance}


def score(model: Model, tokenizer: Tokenizer, window: int, spec: str, most: int, choices: int | None = None) -> Score:
    """The score of one task, on up to `most` of its items, or up to `choices` where likelihood tells the answer."""
    name, task, _ = parse_spec(spec)
    items = items_of(spec, choices if choices and task.kind == "choice" else most)
    rights, chance = KINDS[task.kind](model, tokenizer, window, items, task.tokens)
    return Score(task=name, kind=task.kind, right=sum(rights), items=len(items), chance=chance)


def _choose(
    model: Model, tokenizer: Tokenizer, window: int, items: Sequence[Item], most: int
) -> tuple[list[bool], float]:
    """The likeliest option, or the likeliest by byte; all texts are read as documents, not as chats."""
    choices = [item for item in items if isinstance(item, Choice)]
    rows = [option_row(tokenizer, *option, window) for choice in choices for option in choice.options]
    nats, rights = iter(nats_of(model, rows)), []
    for choice in choices:
        costs = [next(nats) / (len(text.encode()) if choice.by_byte else 1) for _, text in choice.options]
        rights.append(costs.index(min(costs)) == choice.right)
    return rights, sum(1 / len(choice.options) for choice in choices) / len(choices)


def option_row(tokenizer: Tokenizer, given: str, text: str, window: int) -> Row:
    """A document of which the option's tokens count; of one longer than the window, its end."""
    before, after = tokenizer.encode(given), tokenizer.encode(text)
    ids, counted = [*before, *after], [False] * len(before) + [True] * len(after)
    return Row([tokenizer.bos, *ids[-window:]], [False, *counted[-window:]])


def _answer(
    model: Model, tokenizer: Tokenizer, window: int, items: Sequence[Item], most: int
) -> tuple[list[bool], float]:
    asked = [item for item in items if isinstance(item, Question)]
    said = answers(model, tokenizer, [[_user(one.question)] for one in asked], window, most)
    rights = [is_right(text, one.answer) for text, one in zip(said, asked, strict=True)]
    return rights, Counter(one.answer for one in asked).most_common(1)[0][1] / len(asked)


def is_right(said: str, wanted: str) -> bool:
    """Of a number: it is the last number said. Of a word: nothing else is said, but for quotes and stops."""
    if re.fullmatch(r"-?[\d.]+", wanted):
        numbers = re.findall(r"-?\d+(?:\.\d+)?", said.replace(",", ""))
        return bool(numbers) and float(numbers[-1]) == float(wanted)
    return said.strip().strip("\"'.!").casefold() == wanted.casefold()


def _program(
    model: Model, tokenizer: Tokenizer, window: int, items: Sequence[Item], most: int
) -> tuple[list[bool], float]:
    asked = [item for item in items if isinstance(item, Program)]
    chats = [[_user(f"Complete this function:\n\n{one.head}")] for one in asked]
    said = answers(model, tokenizer, chats, window, most)
    return [runs_well(whole_program(one, text)) for one, text in zip(asked, said, strict=True)], 0.0


def whole_program(item: Program, said: str) -> str:
    """What is to be run: the answer, or its first fenced block, behind the head unless it has one, and the test."""
    fenced = re.search(r"```(?:python)?\n(.*?)```", said, re.DOTALL)
    code = fenced[1] if fenced else said
    whole = code if f"def {item.name}" in code else item.head + code
    return f"{whole}\n\n{item.test}\n\ncheck({item.name})\n"


def _user(question: str) -> dict[str, str]:
    return {"role": "user", "content": question}


KINDS: dict[str, Callable[..., tuple[list[bool], float]]] = {"choice": _choose, "answer": _answer, "program": _program}
