"""The tasks by name: where their items come from, and how a row of a file becomes an item.

A spec is a name, whose items are made here or read from the hub through `datasets`, or `name:GLOB` for JSON lines files
in the form of the hub's rows or of llm-foundry's (query, choices, gold; context_options, continuation, gold).
"""

import functools
import itertools
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from nano_think.core.errors import InputError, UsageError, nearest
from nano_think.data.chat_made import Question, ask_spelling, sums
from nano_think.data.hub import commit, stream
from nano_think.data.jsonl_reader import jsonl_objects
from nano_think.data.sources.chat_spelling import questions
from nano_think.data.sources.files import matches

Kind = Literal["choice", "answer", "program"]
Row = dict[str, Any]


class Choice(NamedTuple):
    """Texts of which one is right, each as what is given and what goes on; by_byte: longer ones are not unlikelier."""

    options: tuple[tuple[str, str], ...]
    right: int
    by_byte: bool


class Program(NamedTuple):
    """The head of a function to be written, its name, and a test that defines `check`."""

    head: str
    name: str
    test: str


Item = Choice | Question | Program


@dataclass(frozen=True, kw_only=True)
class Task:
    """A set of items."""

    kind: Kind
    read: Callable[[Row], Item]
    hub: tuple[str, str, str, str | None] | None = None
    """Id on the hub, its files as a glob, the name of the split, and a revision where the newest will not do."""
    made: Callable[[], Iterable[Question]] | None = None
    """Items that need no file."""
    tokens: int = 16
    """Longest answer (tokens)."""


def _choice(row: Row) -> Choice:
    """ARC, PIQA, COPA, WinoGrande and the like, in either form."""
    if "context_options" in row:
        return Choice(tuple((one, f" {row['continuation']}") for one in row["context_options"]), row["gold"], False)
    if "query" in row:
        ask = f"{row['query'].strip()}\nAnswer:" if row["query"].startswith("Question:") else row["query"].strip()
        return Choice(tuple((ask, f" {one}") for one in row["choices"]), row["gold"], True)
    if "answerKey" in row:
        right = row["choices"]["label"].index(row["answerKey"])
        ask = f"Question: {row['question']}\nAnswer:"
        return Choice(tuple((ask, f" {one}") for one in row["choices"]["text"]), right, True)
    if "goal" in row:
        ask = f"Question: {row['goal']}\nAnswer:"
        return Choice(((ask, f" {row['sol1']}"), (ask, f" {row['sol2']}")), row["label"], True)
    if "premise" in row:
        ask = row["premise"].rstrip(".") + (", because" if row["question"] == "cause" else ", therefore")
        said = (one[:1].lower() + one[1:] for one in (row["choice1"], row["choice2"]))
        return Choice(tuple((ask, f" {one}") for one in said), row["label"], True)
    before, after = row["sentence"].split("_", 1)
    options = tuple((before + row[name], after) for name in ("option1", "option2"))
    return Choice(options, int(row["answer"]) - 1, False)


def _pair(row: Row) -> Choice:
    return Choice((("", row["sentence_good"]), ("", row["sentence_bad"])), 0, False)


def _word_problem(row: Row) -> Question:
    return Question(row["question"], row["answer"].rpartition("####")[2].strip().replace(",", ""))


def _sum(row: Row) -> Question:
    """ "12+30=" or a longer chain; it is asked with spaces about the signs, as sums in chats are."""
    whole = row["context"].strip()
    if not re.fullmatch(r"-?\d+(\s*[-+*/]\s*-?\d+)+\s*=?", whole):
        raise ValueError(whole)
    spaced = re.sub(r"(?<=\d)\s*([-+*/])\s*", r" \1 ", whole.rstrip("= "))
    return Question(f"What is {spaced}?", row["continuation"].strip())


def _spelling(row: Row) -> Question:
    return Question(ask_spelling(row["misspelling"]), row["correction"])


def _program(row: Row) -> Program:
    return Program(row["prompt"], row["entry_point"], row["test"])


PARQUET = "refs/convert/parquet"
ARC = "allenai/ai2_arc"
TASKS = {
    "arc_easy": Task(kind="choice", read=_choice, hub=(ARC, "ARC-Easy/test-*.parquet", "test", None)),
    "arc_challenge": Task(kind="choice", read=_choice, hub=(ARC, "ARC-Challenge/test-*.parquet", "test", None)),
    "piqa": Task(kind="choice", read=_choice, hub=("ybisk/piqa", "plain_text/validation/*.parquet", "v", PARQUET)),
    "winogrande": Task(
        kind="choice", read=_choice, hub=("allenai/winogrande", "winogrande_xl/validation/*.parquet", "v", PARQUET)
    ),
    "copa": Task(kind="choice", read=_choice, hub=("aps/super_glue", "copa/validation/*.parquet", "v", PARQUET)),
    "blimp": Task(kind="choice", read=_pair, hub=("nyu-mll/blimp", "*/train-*.parquet", "train", None)),
    "gsm8k": Task(
        kind="answer", read=_word_problem, tokens=256, hub=("openai/gsm8k", "main/test-*.parquet", "test", None)
    ),
    "spelling": Task(kind="answer", read=_spelling, made=functools.partial(questions, held_out=True)),
    "sums": Task(kind="answer", read=_sum, made=functools.partial(sums, held_out=True)),
    "humaneval": Task(
        kind="program", read=_program, tokens=256,
        hub=("openai/openai_humaneval", "openai_humaneval/test-*.parquet", "test", None),
    ),
}  # fmt: skip
"""Every task; the hub's ids and files are those of the data sets' own pages."""


def parse_spec(spec: str) -> tuple[str, Task, str]:
    """The name, the task and the glob of a spec; `UsageError` with the nearest name for an unknown one."""
    name, _, pattern = spec.partition(":")
    if name not in TASKS:
        raise UsageError(f"unknown task '{name}'.{nearest(name, TASKS)}")
    return name, TASKS[name], pattern


def labels(specs: Sequence[str]) -> dict[str, str]:
    """What each spec is called among others -> the spec: the task's name, numbered from the second of a task on."""
    found: dict[str, str] = {}
    for spec in specs:
        name, times = parse_spec(spec)[0], sum(parse_spec(other)[0] == parse_spec(spec)[0] for other in found.values())
        found[f"{name} {times + 1}" if times else name] = spec
    return found


def items_of(spec: str, most: int) -> list[Item]:
    """Up to `most` items, drawn evenly by a fixed seed where there are more; `InputError` for rows of another form."""
    name, task, pattern = parse_spec(spec)
    if not pattern and task.made:
        return list(itertools.islice(task.made(), most))
    found = []
    for number, row in enumerate(_rows(name, task, pattern), 1):
        try:
            found.append(task.read(row))
        except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
            keys = ", ".join(row)
            raise InputError(f"task '{spec}', row {number}: not an item of {name} ({error!r}; keys: {keys})") from None
    if not found:
        raise InputError(f"task '{spec}': no items")
    return found if len(found) <= most else random.Random(0).sample(found, most)


def _rows(name: str, task: Task, pattern: str) -> Iterator[Row]:
    if pattern:
        return itertools.chain.from_iterable(jsonl_objects(path) for path in matches(name, pattern))
    assert task.hub
    dataset, files, split, revision = task.hub
    what = f"{name} ({dataset})"
    return stream(what, dataset, revision or commit(what, dataset, None, files), files, split)
