"""A model that remembers goes on where a namespace stopped: over turns, sessions and crashes, and never in another."""

from pathlib import Path

import pytest
import torch

from nano_think.core.errors import StorageError
from nano_think.inference import carrying
from nano_think.inference.carrying import carried
from nano_think.inference.engine import Engine
from nano_think.inference.remembering import Memories
from nano_think.inference.request import Request
from nano_think.memory import kept
from nano_think.memory.conversation import Conversations
from nano_think.memory.journal import Owner
from nano_think.memory.namespaces import Namespaces
from nano_think.memory.places import place
from nano_think.memory.read import Gate
from nano_think.models.chat import Chat
from tests.inference.test_engine import GREEDY, Letters
from tests.tiny import START, WIDTH, draw_tokens, tiny_chat

OWNER = Owner(model="a" * 64, tokenizer="b" * 64, width=WIDTH)
WINDOW = 24


@pytest.fixture(scope="module")
def model() -> Chat:
    """One that never ends by itself."""
    found = tiny_chat(parts=["state_memory"], columns=8)
    found.head.bias[START] = -1e9
    return found


class Session:
    """A server's life: the namespaces below a root are opened when wanted, and closed at the end."""

    def __init__(self, model: Chat, root: Path):
        self.memories = Namespaces(root, OWNER)
        # A gate of nothing: what is told here of earlier turns is told by the state alone.
        self.engine = Engine(model, Letters(), WINDOW, memories=Memories(conversations=self.memories, gate=Gate()))

    def say(self, *prompt: int, namespace: str = "alice", memory: str = "read-write", most: int = 6) -> list[tuple]:
        """The tokens of an answer, with their log-probabilities."""
        settings = {"namespace": namespace, "memory": memory, "logprobs": 0, "max_new_tokens": most}
        request = Request(prompt=(START, *prompt), sampling=GREEDY, **settings)  # type: ignore[arg-type]
        return [(event.token, event.logprob) for event in self.engine.stream(request) if event.token is not None]

    def close(self) -> None:
        self.memories.close()


def folder_of(root: Path, namespace: str = "alice") -> Path:
    return place(root, OWNER.model, namespace)


def test_what_was_said_is_told_in_the_next_turn_and_only_there(model: Chat, tmp_path: Path):
    session = Session(model, tmp_path)
    fresh = session.say(3, 4, namespace="bob", memory="read")
    session.say(*range(5, 17))
    told = session.say(3, 4, memory="read")
    assert told != fresh and told == session.say(3, 4, memory="read")
    assert session.say(3, 4, namespace="bob", memory="read") == fresh == session.say(3, 4, memory="off")
    session.close()


def test_two_conversations_beside_each_other_stay_apart(model: Chat, tmp_path: Path):
    """Turn by turn in one engine, each is told what it is told alone."""
    together, alone = Session(model, tmp_path / "both"), {name: Session(model, tmp_path / name) for name in "ab"}
    for turn in range(3):
        for name, first in (("a", 3), ("b", 20)):
            said = range(first + turn, first + turn + 7)
            assert together.say(*said, namespace=name) == alone[name].say(*said, namespace=name)
    for session in (together, *alone.values()):
        session.close()


def test_a_new_session_goes_on_bit_for_bit(model: Chat, tmp_path: Path):
    """What is told after closing and opening again is what is told without."""
    one, other = Session(model, tmp_path / "one"), Session(model, tmp_path / "other")
    for turn in ((3, 4, 5, 6, 7), (8, 9), (10, 11, 12)):
        assert one.say(*turn) == other.say(*turn)
        other.close()
        other = Session(model, tmp_path / "other")
    one.close(), other.close()
    states = [(folder_of(tmp_path / name) / kept.STATE).read_bytes() for name in ("one", "other")]
    assert states[0] == states[1]


@pytest.mark.parametrize("harm", ["missing", "damaged", "older"])
def test_the_log_alone_is_enough(model: Chat, tmp_path: Path, harm: str):
    session = Session(model, tmp_path)
    session.say(3, 4, 5, 6, 7)
    state, older = folder_of(tmp_path) / kept.STATE, kept.load_kept(folder_of(tmp_path))
    session.say(8, 9)
    wanted = session.say(10, 11, memory="read")
    session.close()
    if harm == "missing":
        state.unlink()
    elif harm == "damaged":
        content = bytearray(state.read_bytes())
        content[-1] ^= 1
        state.write_bytes(content)
    else:
        assert older
        kept.save_kept(state.parent, older)
    again = Session(model, tmp_path)
    got = again.say(10, 11, memory="read")
    again.close()
    assert [token for token, _ in got] == [token for token, _ in wanted]
    torch.testing.assert_close(*(torch.tensor([p for _, p in one]) for one in (got, wanted)), atol=1e-4, rtol=1e-4)


def test_a_disk_that_refuses_the_copy_fails_no_turn(model: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The log has the turn, so what is told next is what is told where the copy was written."""
    one, other = Session(model, tmp_path / "one"), Session(model, tmp_path / "other")

    def refuse(folder: Path, known: kept.Kept) -> None:
        raise StorageError("no space left on the disk")

    wanted = [one.say(3, 4, 5, 6, 7), one.say(8, 9)]
    monkeypatch.setattr(carrying, "save_kept", refuse)
    assert [other.say(3, 4, 5, 6, 7), other.say(8, 9)] == wanted
    assert other.memories("alice").told == ["no space left on the disk"]
    one.close(), other.close()


def test_what_is_forgotten_leaves_no_trace(model: Chat, tmp_path: Path):
    session = Session(model, tmp_path)
    fresh = session.say(3, 4, memory="read")
    session.say(5, 6, 7, 8)
    session.memories("alice").forget()
    assert not list(folder_of(tmp_path).glob("state*"))
    assert session.say(3, 4, memory="read") == fresh
    session.close()


def test_what_sleep_has_merged_was_said_all_the_same(model: Chat, tmp_path: Path):
    """Also a turn of which no entry is left: what is kept is read off the same tokens as before."""
    with Conversations(folder_of(tmp_path), OWNER, write=True) as memory:
        key_TD = torch.eye(WIDTH)[:4].numpy()
        memory.append(0, [3, 4, 5, 6, 7], key_TD)
        memory.append(0, [3, 4, 5, 6, 7, 8], torch.eye(WIDTH)[:5].numpy(), first=4)
        before = carried(model, memory)
        assert memory.sleep(0.99) == 4 and memory.kept
        assert memory.kept.generation != memory.generation, "a copy that is not believed"
        after = carried(model, memory)
    for part, own in before.items():
        for name, tensor in own.items():
            torch.testing.assert_close(after[part][name], tensor)


def test_a_text_longer_than_the_window_is_remembered_within_its_request(model: Chat, tmp_path: Path):
    """Another beginning, which has long left the window, makes another answer; without the part it does not."""
    beginnings = [draw_tokens(1, 30, seed=seed)[0, 1:].tolist() for seed in (1, 2)]
    ending = draw_tokens(1, 40, seed=3)[0, 1:].tolist()
    plain = tiny_chat()
    plain.head.bias[START] = -1e9
    for one, differ in ((model, True), (plain, False)):
        engine = Engine(one, Letters(), WINDOW)
        answers = []
        for begin in beginnings:
            request = Request(prompt=(START, *begin, *ending), max_new_tokens=4, sampling=GREEDY, logprobs=0)
            answers.append([event.logprob for event in engine.stream(request)])
        assert (answers[0] != answers[1]) is differ


def test_what_is_kept_is_that_of_all_that_the_log_holds(model: Chat, tmp_path: Path):
    session = Session(model, tmp_path)
    session.say(3, 4, 5, 6, 7), session.say(8, 9)
    session.close()
    with Conversations(folder_of(tmp_path), OWNER, write=True) as said:
        tokens = torch.from_numpy(said.entries.token.astype("int64"))
        wanted, got = model.fold(tokens, {})["state_memory"], carried(model, said)["state_memory"]
        assert int(got["length"]) == said.clock == len(tokens)
    for name, tensor in wanted.items():
        torch.testing.assert_close(got[name], tensor, atol=1e-5, rtol=1e-5)
