"""Answers: the likeliest token each time, whoever is asked beside, and judged as one would judge them."""

import json

import pytest
import torch

from nano_think.data.tokenizer import Tokenizer
from nano_think.evaluation.chat import answers as answers_module
from nano_think.evaluation.chat.answers import answers
from nano_think.evaluation.chat.scores import Score, is_right, option_row, score, whole_program
from nano_think.evaluation.chat.tasks import Program
from nano_think.models.chat import Chat

ASKED = ["the cat", "what is the sum of 1 and 2?", "?", "spelling " * 9]


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def greedily(model: Chat, words: Tokenizer, ids: list[int], most: int) -> list[int]:
    """Twin: without cache, alone."""
    written: list[int] = []
    with torch.no_grad():
        while len(written) < most:
            token = int(model.logits(model(torch.tensor([ids + written])))[0, -1].argmax())
            if token in (words.bos, words.special["<|assistant_end|>"]):
                break
            written.append(token)
    return written


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_answers_are_those_of_each_alone(speaker: Chat, words: Tokenizer, rows: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(answers_module, "ROWS", rows)
    prompts = [words.encode_chat(user(text), add_generation_prompt=True)[0] for text in ASKED]
    wanted = [words.decode(greedily(speaker, words, ids, 12)) for ids in prompts]
    assert answers(speaker, words, [user(text) for text in ASKED], window=100, most=12) == wanted
    assert len(set(wanted)) > 1


def test_an_answer_ends_where_it_should(speaker: Chat, words: Tokenizer):
    speaker.head.bias[words.special["<|assistant_end|>"]] = 1e4
    assert answers(speaker, words, [user("the cat")], window=100, most=12) == [""]


def test_of_a_long_chat_the_end_is_read(speaker: Chat, words: Tokenizer):
    """As much as leaves room for the answer, behind a start token."""
    ids = words.encode_chat(user(ASKED[3]), add_generation_prompt=True)[0]
    short = [ids[0], *ids[-11:]]
    wanted = words.decode(greedily(speaker, words, short, 8))
    assert answers(speaker, words, [user(ASKED[3])], window=20, most=8) == [wanted] and len(ids) > 20


@pytest.mark.parametrize(
    ("said", "wanted", "right"),
    [
        ("19", "19", True), ("12 + 7 = 19", "19", True), ("It is 1,019.", "1019", True), ("19 or 20", "19", False),
        ("", "19", False), ("-3", "3", False), ("Receive.", "receive", True), ('"receive"', "receive", True),
        ("receive it", "receive", False), ("19.0", "19", True), ("nineteen", "19", False),
    ],
)  # fmt: skip
def test_judgement(said: str, wanted: str, right: bool):
    assert is_right(said, wanted) == right


WILSON = [(0, 10, 0, 0.2775), (10, 10, 0.7225, 1), (50, 100, 0.4038, 0.5962)]


@pytest.mark.parametrize(("right", "items", "low", "high"), WILSON)
def test_interval_is_wilsons(right: int, items: int, low: float, high: float):
    """Against the published tables of the interval (95%)."""
    found = Score(task="t", kind="answer", right=right, items=items, chance=0.1)
    assert found.interval == pytest.approx((low, high), abs=1e-4)
    assert found.to_dict()["above_chance"] == (low > 0.1)


def test_choices_are_told_by_likelihood(speaker: Chat, words: Tokenizer, tmp_path):
    """A text that the bias likes better is chosen, here the wrong one of each pair."""
    speaker.head.bias[words.encode("z")[0]] = 60.0
    file = tmp_path / "pairs.jsonl"
    pairs = [("the cat", "zz")] * 3 + [("z", "1 and")]
    rows = [{"sentence_good": good, "sentence_bad": bad} for good, bad in pairs]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = score(speaker, words, 100, f"blimp:{file}", 50).to_dict()
    assert (found["score"], found["chance"], found["items"], found["kind"]) == (0.25, 0.5, 4, "choice")


def test_only_the_option_counts_and_the_end_is_kept(words: Tokenizer):
    row = option_row(words, "the cat sat on", " the mat", window=100)
    assert words.decode([t for t, one in zip(*row, strict=True) if one]) == " the mat" and row.ids[0] == words.bos
    cut = option_row(words, "the cat sat on", " the mat", window=3)
    assert len(cut.ids) == 4 and cut.ids[1:] == row.ids[-3:]


def test_chance_of_answers_is_the_commonest_one(speaker: Chat, words: Tokenizer, tmp_path):
    file = tmp_path / "sums.jsonl"
    rows = [
        {"context": context, "continuation": said} for context, said in (("1+1=", "2"), ("3 - 1", " 2"), ("2*2", "4"))
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert score(speaker, words, 100, f"sums:{file}", 50).chance == pytest.approx(2 / 3)


PROGRAM = Program("def twice(x):\n", "twice", "def check(f):\n    assert f(2) == 4")


SAID = [
    "    return 2 * x",
    "def twice(x):\n    return x + x",
    "Here:\n```python\ndef twice(x):\n    return 2 * x\n```\nDone.",
]


@pytest.mark.parametrize("said", SAID)
def test_a_program_is_found_in_what_was_said(said: str):
    names: dict = {}
    exec(whole_program(PROGRAM, said), names)
    assert names["twice"](5) == 10
