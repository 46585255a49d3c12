"""Chats: what is read as one, the starter for those who have none, and windows that never cut what fits."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nano_think.core.errors import ArtifactError, InputError
from nano_think.data.chat import ChatEncoder, from_text, to_text
from nano_think.data.chat_made import is_held_out, slip, spellings, sums
from nano_think.data.chat_windows import ChatWindows, pack
from nano_think.data.ingest import IngestConfig, ingest
from nano_think.data.source import Reading
from nano_think.data.sources import SOURCES, groups, resolve
from nano_think.data.tokenizer import Tokenizer
from nano_think.data.tokens import TokenSet, write_tokens
from tests.tiny import few

TALK = [
    {"role": "system", "content": 'Be "brief".\u0007'},
    {"role": "user", "content": "na\u00efve <|user_end|>\n?"},
    {"role": "assistant", "content": "yes"},
]


def test_a_chat_comes_back_as_it_was():
    assert from_text(to_text(TALK)) == TALK


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        (None, 'wanted "messages", a list'),
        ("hello", 'wanted "messages", a list'),
        ([], 'wanted "messages", a list'),
        (["hello"], "message 1: wanted an object with role and content, got str"),
        ([{"role": "bot", "content": "x"}], "message 1: wanted the role system, user or assistant, got 'bot'"),
        ([{"role": "user", "content": 3}], "message 1: wanted a content that is text, got int"),
        ([{"role": "user"}], "message 1: wanted a content that is text, got NoneType"),
        ([{"role": "user", "content": "x"}], "the assistant says nothing"),
        ([*TALK, {"role": "system", "content": "x"}], "a system message opens a user message"),
        ([TALK[1], {"role": "assistant", "content": "a" * 70_000}], "a word of it is longer"),
    ],
)
def test_what_is_no_chat_is_named(messages: object, said: str):
    with pytest.raises(InputError, match=said):
        to_text(messages)


def test_text_is_no_chat():
    with pytest.raises(ArtifactError, match="give chats where chats are wanted"):
        from_text("In the beginning")


def write_chats(folder: Path, rows: list[dict]) -> Path:
    file = folder / "talks.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def test_rows_of_a_file_are_chats(tmp_path: Path):
    rows = [{"messages": TALK, "source": "me", "id": 7}, {"messages": TALK}]
    (source,) = resolve((f"chats:{write_chats(tmp_path, rows)}",))
    found = list(source.documents())
    assert [(one.source, one.id, one.domain) for one in found] == [("me", "7", "talks"), ("talks", "talks:2", "talks")]
    assert source.form == "chat" and from_text(found[0].text) == TALK


def test_a_bad_row_stops_or_is_counted(tmp_path: Path):
    file = write_chats(tmp_path, [{"messages": TALK}, {"text": "no chat"}])
    with pytest.raises(InputError, match=r"talks.jsonl: row 2: wanted \"messages\""):
        list(resolve((f"chats:{file}",))[0].documents())
    (source,) = resolve((f"chats:{file}",), Reading(bad_lines="skip"))
    assert len(list(source.documents())) == 1 and source.skipped == {"not_a_chat": 1}


def test_a_file_without_chats_is_refused(tmp_path: Path):
    (source,) = resolve((f"chats:{write_chats(tmp_path, [{'text': 'x'}])}",), Reading(bad_lines="skip"))
    with pytest.raises(InputError, match="no chat in"):
        list(source.documents())


def test_the_starter_has_licences_and_holds_out_what_is_asked_later():
    assert groups()["starter_chat"] == ["small_talk", "spelling", "sums"]
    told = {}
    for source in resolve(("starter_chat",)):
        told[source.name] = [from_text(one.text) for one in source.documents()]
        assert source.licence and source.origin and source.form == "chat"
    assert {name: len(chats) for name, chats in told.items()} == {"small_talk": 2287, "spelling": 8000, "sums": 4000}
    words = {chat[-1]["content"] for chat in told["spelling"]}
    assert not any(map(is_held_out, words))
    asked = {question for question, _ in sums(held_out=True)}
    assert asked and not asked & {chat[0]["content"] for chat in told["sums"]}


def test_questions_have_the_right_answer():
    for question, answer in sums(held_out=True):
        assert eval(question.removeprefix("What is ").rstrip("?")) == int(answer)


@few(200)
@given(word=st.from_regex(r"[a-z]{4,10}", fullmatch=True))
def test_a_slip_is_never_the_word(word: str):
    if len(set(word)) > 1:
        assert slip(word) != word == next(iter(spellings([word], is_held_out(word)))).answer


def test_every_chat_source_says_so():
    assert {name for name, source in SOURCES.items() if source.form == "chat"} == {
        "chats", "dolly", "gsm8k", "small_talk", "smoltalk", "spelling", "sums",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "row", "said"),
    [
        ("dolly", {"instruction": "a", "context": "b", "response": "c"}, ["a\n\nb", "c"]),
        ("gsm8k", {"question": "a", "answer": "1+1=<<1+1=2>>2\n#### 2"}, ["a", "1+1=2\n#### 2"]),
        ("smoltalk", {"messages": TALK[1:]}, [one["content"] for one in TALK[1:]]),
    ],
)
def test_rows_of_the_hub_are_chats(name: str, row: dict, said: list[str]):
    assert [one["content"] for one in from_text(SOURCES[name]().text(row))] == said


def documents_of(rows: list[list[int]], domains: list[str]) -> TokenSet:
    """Rows of ids as a token set, without a file."""
    lengths = [len(row) for row in rows]
    columns = {"offset": np.cumsum([0, *lengths[:-1]]), "tokens": lengths, "domain": domains}
    return TokenSet(np.array([token for row in rows for token in row]), pa.table(columns))


@pytest.fixture(scope="module")
def chats(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> TokenSet:
    """Chats of very different lengths, ingested and encoded; the training split."""
    folder = tmp_path_factory.mktemp("chats")
    rows = [
        {"messages": [
            {"role": "user", "content": f"n {n}"}, {"role": "assistant", "content": "the cat " * (n % 13) + "!"},
        ]}
        for n in range(60)
    ]  # fmt: skip
    ingest(IngestConfig(sources=(f"chats:{write_chats(folder, rows)}",), router_fraction=0.0), folder / "documents")
    write_tokens(folder / "documents", ChatEncoder(tokenizer), folder / "tokens")
    return TokenSet.open(folder / "tokens", "train")


def test_tokens_are_those_of_the_template(chats: TokenSet, tokenizer: Tokenizer):
    offsets, lengths = (chats.documents.column(name).to_pylist() for name in ("offset", "tokens"))
    for offset, length in zip(offsets, lengths, strict=True):
        ids = chats.tokens[offset : offset + length]
        text = tokenizer.decode(ids[1:])
        assert ids[0] == tokenizer.bos and text.startswith("<|user_start|>n ") and text.endswith("!<|assistant_end|>")


@pytest.mark.parametrize("window", [30, 64, 500])
def test_every_chat_comes_once_an_epoch_and_whole_if_it_fits(chats: TokenSet, window: int):
    windows = ChatWindows(chats, window, 3, seed=1)
    offsets, lengths = (chats.documents.column(name).to_pylist() for name in ("offset", "tokens"))
    wanted = sorted(chats.tokens[o : o + min(n, window + 1)].tolist() for o, n in zip(offsets, lengths, strict=True))
    for epoch in range(2):
        rows = [windows._window(epoch, place) for place in range(windows.windows_per_epoch)]
        found = [part.tolist() for row in rows for part in np.split(row, np.flatnonzero(row == windows.start_token))]
        assert sorted(part for part in found if len(part) > 1) == wanted
        assert all(len(row) == window + 1 for row in rows)
    assert 0.5 < windows.filled <= 1


def test_ranks_share_a_batch_and_epochs_differ(chats: TokenSet):
    windows = ChatWindows(chats, 64, 4, seed=1)
    whole, halves = windows.batch(2), [windows.batch(2, rank, 2) for rank in range(2)]
    assert np.array_equal(np.stack(halves, axis=1).reshape(whole.shape), whole)
    assert not np.array_equal(windows._order(0), windows._order(1))


@few(100)
@given(lengths=st.lists(st.integers(1, 20), max_size=30))
def test_packs_hold_everything_once_within_the_room(lengths: list[int]):
    packs = pack(lengths, 20)
    assert sorted(index for group in packs for index in group) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in group) <= 20 for group in packs)
    assert len(packs) <= 2 * -(-sum(lengths) // 20)
