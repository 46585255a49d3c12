"""What a request reads of memories, and what its turn leaves behind: only a finished one, only in its namespace."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nano_think.core.errors import LockedError, StorageError
from nano_think.inference.engine import Engine
from nano_think.inference.remembering import Memories, find_beginning
from nano_think.inference.request import Event, Request
from nano_think.inference.sampling import SamplingConfig
from nano_think.inference.slots import context_start
from nano_think.memory.conversation import Conversations
from nano_think.memory.journal import Owner
from nano_think.memory.namespaces import Namespaces
from nano_think.memory.places import place
from nano_think.memory.read import Gate, to_key
from nano_think.memory.store import VectorStore
from nano_think.memory.texts import Texts
from nano_think.memory.turn import Turn
from nano_think.models.think import NanoThink
from tests.inference.test_engine import GREEDY, Letters, all_answers, answer, never_ending
from tests.tiny import START, WIDTH, few, tiny_mixture

OWNER = Owner(model="a" * 64, tokenizer="b" * 64, width=WIDTH)
SHARP = Gate(share=0.5, sharpness=400.0)
FREE = SamplingConfig(temperature=3.0, top_k=0, top_p=1.0, seed=4)


class Opened:
    """The memories below a root, each opened for writing once."""

    def __init__(self, root: Path, held: ExitStack):
        self.root, self.held = root, held
        self.memories: dict[str, Conversations] = {}

    def __call__(self, namespace: str, write: bool = True) -> Conversations:
        if namespace not in self.memories:
            memory = Conversations(place(self.root, OWNER.model, namespace), OWNER, write=True)
            self.memories[namespace] = self.held.enter_context(memory)
        return self.memories[namespace]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    with ExitStack() as held:
        yield Opened(tmp_path, held)


@pytest.fixture(scope="module")
def model() -> NanoThink:
    return never_ending(tiny_mixture())


def engine(model: NanoThink, opened: Opened, window: int = 64, gate: Gate = SHARP, **memories) -> Engine:
    return Engine(model, Letters(), window, memories=Memories(conversations=opened, gate=gate, **memories))


def say(engine: Engine, *prompt: int, most: int = 6, sampling: SamplingConfig = GREEDY, **settings) -> list[int]:
    """The whole text after an answer."""
    settings = {"memory": "read-write", "namespace": "alice"} | settings
    tokens = (START, *prompt)
    request = Request(prompt=tokens, max_new_tokens=most, sampling=sampling, **settings)
    return [*tokens, *answer(list(engine.stream(request)))]


def documents_of(memory: Conversations) -> dict[int, list[int]]:
    """The tokens of each document, in the order of their positions."""
    entries, found = memory.entries, {}
    for document, position, token in zip(entries.document, entries.position, entries.token, strict=True):
        found.setdefault(int(document), {})[int(position)] = int(token)
    return {document: [tokens[p] for p in sorted(tokens)] for document, tokens in found.items()}


def test_a_finished_turn_is_remembered_with_what_was_thought_at_each_token(model: NanoThink, opened: Opened):
    text = say(engine(model, opened), 3, 4, 5)
    entries = opened("alice").entries
    assert (entries.token.tolist(), entries.value.tolist()) == (text[:-1], text[1:])
    with torch.no_grad():
        wanted = to_key(model(torch.tensor([text[:-1]])).hidden[0])
    torch.testing.assert_close(torch.from_numpy(entries.key), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("memory", ["off", "read"])
def test_a_turn_that_may_not_write_leaves_nothing(model: NanoThink, opened: Opened, memory: str):
    say(engine(model, opened), 3, memory=memory)
    assert len(opened("alice")) == 0


def test_off_is_what_a_request_says_nothing_of(model: NanoThink, opened: Opened):
    list(engine(model, opened).stream(Request(prompt=(START, 3), max_new_tokens=2)))
    assert not opened.memories


def test_an_aborted_turn_leaves_nothing(model: NanoThink, opened: Opened):
    one = engine(model, opened)
    stream = one.stream(Request(prompt=(START, 3), max_new_tokens=50, memory="read-write", namespace="alice"))
    next(stream), next(stream)
    stream.close()
    assert len(opened("alice")) == 0 and not one.busy


def test_a_conversation_that_goes_on_stays_one_document(model: NanoThink, opened: Opened):
    """The second turn's prompt holds the first turn: only what is new is added."""
    one = engine(model, opened)
    first = say(one, 3, 4)
    second = say(one, *first[1:], 7, 8)
    assert documents_of(opened("alice")) == {0: second[:-1]}
    assert len(opened("alice")) == len(second) - 1
    assert [turn.first for turn in opened("alice").turns()] == [0, len(first) - 1]


def test_what_was_erased_or_not_kept_does_not_come_back_with_the_next_turn(model: NanoThink, opened: Opened):
    """The prompt holds the earlier turns; only the last one is written, behind what is remembered of the others."""
    one = engine(model, opened)
    first = say(one, 3, 4)
    unkept = say(one, *first[1:], 7, 8, memory="read")
    third = say(one, *unkept[1:], 5, 6, turn=len(unkept))
    assert documents_of(opened("alice")) == {0: first[:-1] + third[len(unkept) : -1]}
    opened("alice").forget()
    last = say(one, *third[1:], 9, turn=len(third))
    assert documents_of(opened("alice")) == {1: last[len(third) : -1]}


def test_the_border_to_a_remembered_turn_is_remembered(model: NanoThink, opened: Opened):
    """An answer's end (here 9) is written with the next turn: a document has no gaps of one token."""
    one = engine(model, opened)
    first = say(one, 3, 4)
    second = say(one, *first[1:], 9, 7, 8, turn=len(first) + 1)
    assert documents_of(opened("alice")) == {0: second[:-1]}


def test_what_parts_from_a_remembered_text_is_a_document_from_there_on(model: NanoThink, opened: Opened):
    one = engine(model, opened)
    first, other = say(one, 3, 4, 5, 6), say(one, 3, 4, 9, 9)
    assert documents_of(opened("alice")) == {0: first[:-1], 1: other[2:-1]}
    assert opened("alice").entries.position[len(first) - 1 :].tolist() == list(range(2, len(other) - 1))


def test_the_same_turn_again_adds_nothing(model: NanoThink, opened: Opened):
    one = engine(model, opened, gate=Gate())
    assert say(one, 3, 4) == say(one, 3, 4)
    assert len(documents_of(opened("alice"))) == 1 and len(opened("alice")) == 8


def test_keys_are_those_of_the_first_reading(model: NanoThink, opened: Opened):
    """Also when the window moves on under the text, and its newer half is read again."""
    text, window = say(engine(model, opened, window=8), *range(5), most=14), 8
    entries = opened("alice").entries
    assert entries.token.tolist() == text[:-1]
    for position, key in enumerate(entries.key):
        first = 0 if position < 6 else context_start(position + 1, window)
        with torch.no_grad():
            hidden = model(torch.tensor([text[first : position + 1]])).hidden[0, -1]
        torch.testing.assert_close(torch.from_numpy(key), to_key(hidden), atol=1e-4, rtol=1e-4)


def test_of_a_prompt_beyond_the_window_what_was_read_is_remembered(model: NanoThink, opened: Opened):
    text = say(engine(model, opened, window=8), *range(20), most=2)
    assert opened("alice").entries.position.tolist() == list(range(context_start(21, 8), len(text) - 1))


def test_what_is_remembered_comes_back(model: NanoThink, opened: Opened):
    """A text that was drawn freely is the likeliest one for whom it was said to, and for nobody else."""
    one = engine(model, opened)
    text = say(one, 3, 4, sampling=FREE)
    assert say(one, 3, 4, memory="read") == text
    assert say(one, 3, 4, memory="off") != text
    assert say(one, 3, 4, memory="read", namespace="bob") == say(one, 3, 4, memory="off") != text


def test_what_was_read_before_all_conversations_counts_too(model: NanoThink, opened: Opened):
    text = say(engine(model, opened), 3, 4, sampling=FREE)
    store = VectorStore(opened("alice").entries, OWNER.model)
    assert say(engine(model, opened, store=store), 3, 4, memory="read", namespace="bob") == text


def test_a_turn_reads_what_was_there_when_it_began(model: NanoThink, opened: Opened):
    """What another turn of the same namespace leaves behind meanwhile is not seen."""
    one = engine(model, opened)
    alone = say(one, 3, 4, memory="off", most=12)
    early = Request(prompt=(START, 3, 4), max_new_tokens=12, sampling=GREEDY, memory="read", namespace="alice")
    name = one.submit(early)
    events = one.step()
    one.submit(Request(prompt=(START, 3, 4), max_new_tokens=2, sampling=FREE, memory="read-write", namespace="alice"))
    events += [event for found in all_answers(one).values() for event in found]
    assert len(opened("alice")) > 0
    assert answer([event for event in events if event.request == name]) == alone[3:]


def test_a_gate_of_nothing_changes_nothing(model: NanoThink, opened: Opened):
    one = engine(model, opened, gate=Gate())
    say(one, 3, 4, sampling=FREE)
    assert say(one, 3, 4, memory="read") == say(one, 3, 4, memory="off")


def test_mixed_logits_stand_where_the_models_own_do(model: NanoThink, opened: Opened):
    """A share of almost nothing changes almost nothing, also of what a repetition penalty divides or multiplies."""
    say(engine(model, opened), 3, 4)
    memories = Memories(conversations=opened, gate=Gate(share=1e-6))
    turn = memories.begin(Request(prompt=(START,), memory="read", namespace="alice"), tiny_mixture())
    logits_V = 5 + torch.randn(len(model.head.table), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(turn.mix(logits_V, torch.ones(WIDTH)), logits_V, atol=1e-3, rtol=0)


def last(events: list[Event]) -> Event:
    return events[-1]


def test_a_memory_that_cannot_be_opened_ends_its_request_alone(model: NanoThink, opened: Opened):
    one = engine(model, opened)
    wrong = one.submit(Request(prompt=(START,), memory="read", namespace="../x"))
    right = one.submit(Request(prompt=(START,), max_new_tokens=3, memory="read", namespace="alice"))
    found = all_answers(one)
    assert [(event.finish, "namespace" in event.error) for event in found[wrong]] == [("error", True)]
    assert last(found[right]).finish == "length"


@pytest.mark.parametrize("error", [StorageError("memory: no space left"), OSError(5, "no space left")])
def test_an_answer_stands_when_the_disk_refuses(
    error: Exception, model: NanoThink, opened: Opened, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: object) -> int:
        raise error

    monkeypatch.setattr(opened("alice"), "append", refuse)
    request = Request(prompt=(START, 3), max_new_tokens=3, memory="read-write", namespace="alice")
    events = list(engine(model, opened).stream(request))
    assert len(answer(events)) == 3 and last(events).finish == "length" and "no space" in last(events).error


def test_an_engine_without_memories_answers_as_with_memory_off(model: NanoThink, opened: Opened):
    without = Engine(model, Letters(), 64)
    assert say(without, 3, 4) == say(engine(model, opened), 3, 4, memory="off")


TEXTS = st.lists(st.lists(st.integers(0, 1), min_size=2, max_size=7), max_size=4)


@few(200)
@given(texts=TEXTS, text=st.lists(st.integers(0, 1), min_size=2, max_size=8))
def test_the_longest_known_beginning_is_found(texts: list[list[int]], text: list[int]):
    none = np.zeros(0)
    turns = [
        Turn(tokens=np.array(one), offset=none, weight=none, key=none, document=number, first=0, time=0, written=0)
        for number, one in enumerate(texts)
    ]
    shared = [next((i for i, (a, b) in enumerate(zip(one, text, strict=False)) if a != b), None) for one in texts]
    same = [min(len(one), len(text)) if at is None else at for one, at in zip(texts, shared, strict=True)]
    known, document = find_beginning(Texts.join(map(Texts.of, turns)), np.array(text))
    assert known == max([0, *(n - 1 for n in same)])
    if document is not None:
        assert text[: len(texts[document])] == texts[document] and len(texts[document]) == known + 1
    else:
        assert not any(n - 1 == known > 0 and n == len(one) for n, one in zip(same, texts, strict=True))


def test_what_sleep_has_merged_is_still_told_apart(tmp_path: Path):
    """A text that differs where no entry is left is another one: all of it is to be kept, in a document of its own."""
    key_D = np.eye(OWNER.width, dtype=np.float32)
    said = np.array([5, 6, 7, 5, 6, 7, 3, 4])
    with Conversations(tmp_path, OWNER, write=True) as memory:
        memory.append(memory.begin(), said, key_D[[0, 1, 2, 0, 1, 3, 4]])
        assert memory.sleep(0.99) == 2
        assert find_beginning(memory.texts, np.array([8, 9, *said[2:], 2])) == (0, None)
        assert find_beginning(memory.texts, np.array([*said, 2])) == (7, 0)
        memory.append(memory.begin(), [1, 2], key_D[:1])
        assert memory.texts.token.tolist() == [*said[:-1], 1]
        memory.forget([0])
        assert memory.texts.token.tolist() == [1] and memory.texts.value.tolist() == [2]


def test_a_turn_that_only_reads_makes_no_memory_and_keeps_nobody_from_writing(tmp_path: Path, model: NanoThink):
    """Of a namespace that was never written nothing is made; one that is there is read without its lock."""
    mine = Namespaces(tmp_path / "root", OWNER)
    one = Engine(model, Letters(), 64, memories=Memories(conversations=mine, gate=SHARP))
    alone = say(one, 3, 4, memory="off")
    assert say(one, 3, 4, memory="read") == alone and not (tmp_path / "root").exists()
    with Conversations(place(tmp_path / "root", OWNER.model, "alice"), OWNER, write=True) as said:
        text = say(Engine(model, Letters(), 64, memories=Memories(conversations=lambda *_: said)), 3, 4, sampling=FREE)
    assert text != alone and say(one, 3, 4, memory="read") == text
    assert Conversations(said.folder, OWNER, write=True).write
    mine.close()


def test_a_turn_beside_another_writer_is_answered_read_and_says_that_it_is_not_remembered(
    tmp_path: Path, model: NanoThink
):
    """And while it runs its memory is in use."""
    other, mine = Namespaces(tmp_path, OWNER), Namespaces(tmp_path, OWNER)
    other("alice")
    asked = Request(prompt=(START, 3, 4), max_new_tokens=3, memory="read-write", namespace="alice", sampling=GREEDY)
    one = Engine(model, Letters(), 64, memories=Memories(conversations=mine, gate=SHARP))
    events, users = [], []
    for event in one.stream(asked):
        events.append(event)
        users.append(mine("alice").users)
    assert [event.finish for event in events] == [None, None, "length"] and users == [1, 1, 0]
    assert "memory 'alice': another process writes it" in events[-1].error
    assert isinstance(events[-1].failure, LockedError) and len(mine("alice")) == 0
    other.close(), mine.close()
