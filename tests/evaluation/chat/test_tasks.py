"""Rows of the hub and of llm-foundry's files become the same items."""

import json
from pathlib import Path

import pytest

from nano_think.core.errors import InputError, UsageError
from nano_think.data.chat_made import Question
from nano_think.evaluation.chat.tasks import TASKS, Choice, Program, items_of, labels, parse_spec

ARC = ("Question: Which?\nAnswer:", " a"), ("Question: Which?\nAnswer:", " b")
ROWS = {
    "arc, hub": (
        "arc_easy",
        {"question": "Which?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"},
        Choice(ARC, 1, True),
    ),
    "arc, file": ("arc_easy", {"query": "Question: Which?", "choices": ["a", "b"], "gold": 1}, Choice(ARC, 1, True)),
    "piqa, hub": ("piqa", {"goal": "Which?", "sol1": "a", "sol2": "b", "label": 0}, Choice(ARC, 0, True)),
    "copa, hub": (
        "copa",
        {"premise": "It fell.", "choice1": "I ran.", "choice2": "A b.", "question": "cause", "label": 1},
        Choice((("It fell, because", " i ran."), ("It fell, because", " a b.")), 1, True),
    ),
    "copa, file": (
        "copa",
        {"query": "It fell, therefore", "choices": ["x.", "y."], "gold": 0},
        Choice((("It fell, therefore", " x."), ("It fell, therefore", " y.")), 0, True),
    ),
    "winogrande, hub": (
        "winogrande",
        {"sentence": "A met B so _ won.", "option1": "A", "option2": "B", "answer": "2"},
        Choice((("A met B so A", " won."), ("A met B so B", " won.")), 1, False),
    ),
    "winogrande, file": (
        "winogrande",
        {"context_options": ["so A", "so B"], "continuation": "won.", "gold": 1},
        Choice((("so A", " won."), ("so B", " won.")), 1, False),
    ),
    "blimp": ("blimp", {"sentence_good": "a", "sentence_bad": "b"}, Choice((("", "a"), ("", "b")), 0, False)),
    "gsm8k": ("gsm8k", {"question": "How?", "answer": "1\n#### 1,024"}, Question("How?", "1024")),
    "sums": ("sums", {"context": "25-759=", "continuation": "-734"}, Question("What is 25 - 759?", "-734")),
    "sums, a chain": (
        "sums",
        {"context": "-5+3--2*4=", "continuation": "6"},
        Question("What is -5 + 3 - -2 * 4?", "6"),
    ),
    "spelling": (
        "spelling",
        {"misspelling": "teh", "correction": "the"},
        Question("Correct the spelling of this word: teh", "the"),
    ),
    "humaneval": ("humaneval", {"prompt": "p", "entry_point": "f", "test": "t"}, Program("p", "f", "t")),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_becomes_an_item(name: str, tmp_path: Path):
    task, row, item = ROWS[name]
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    assert items_of(f"{task}:{tmp_path}/rows.jsonl", 10) == [item]


def test_every_task_has_a_row_here():
    assert {task for task, _, _ in ROWS.values()} | {"arc_challenge"} == TASKS.keys()


def test_a_row_of_another_form_is_named(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text('{"text": "x"}\n')
    with pytest.raises(InputError, match=r"row 1: not an item of blimp \(KeyError\('sentence_good'\); keys: text\)"):
        items_of(f"blimp:{tmp_path}/rows.jsonl", 10)


def test_a_task_may_come_twice():
    assert labels(["sums", "blimp:a", "sums:b", "sums:c"]) == {
        "sums": "sums", "blimp": "blimp:a", "sums 2": "sums:b", "sums 3": "sums:c"
    }  # fmt: skip


def test_an_unknown_task_is_named():
    with pytest.raises(UsageError, match=r"unknown task 'blip'\. Did you mean 'blimp'"):
        parse_spec("blip:x")


def test_more_than_wanted_are_drawn_alike_every_time(tmp_path: Path):
    rows = [{"sentence_good": str(n), "sentence_bad": "x"} for n in range(50)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    one, other = (items_of(f"blimp:{tmp_path}/rows.jsonl", 10) for _ in range(2))
    assert one == other and len(one) == 10 and one != items_of(f"blimp:{tmp_path}/rows.jsonl", 50)[:10]


@pytest.mark.parametrize("name", ["sums", "spelling"])
def test_made_items_need_no_file(name: str):
    assert len(items_of(name, 100)) == 100
