"""A conversation's memory: what is acknowledged is found, in order of time, by threads, readers and later processes."""

import errno
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from nano_think.core.errors import ArtifactError, LockedError, UsageError
from nano_think.memory import conversation as conversation_module
from nano_think.memory import index as index_module
from nano_think.memory import snapshot
from nano_think.memory.journal import Owner
from tests.memory.conversations import OWNER, WIDTH, keys, open_memory, remember, tokens_of


def test_what_was_appended_is_found_with_what_came_next(tmp_path: Path):
    with open_memory(tmp_path) as memory:
        document = memory.begin()
        assert memory.append(document, [7, 8, 9], keys(2)) == memory.clock == 2
        found = memory.search(keys(2)[1:], 3)
    assert (found.value[0, 0], found.document[0, 0], found.position[0, 0], found.time[0, 0]) == (9, 0, 1, 1)
    assert found.similarity[0, 0] == pytest.approx(1) and found.weight[0].tolist() == [1, 1, 0]
    assert found.value[0, 2] == found.document[0, 2] == found.time[0, 2] == -1


def test_a_query_sees_only_what_is_older(tmp_path: Path):
    """At the time that an append returned it sees all of it; one earlier, not its last entry."""
    with open_memory(tmp_path) as memory:
        clocks = [remember(memory, n) for n in range(5)]
        for n, clock in enumerate(clocks):
            assert memory.search(keys(1), 20, before=clock).time.max() == clock - 1
            assert sorted(memory.search(keys(1), 20, before=clock - 1).time[0])[-(3 * n + 2) :] == list(
                range(clock - 1)
            )
        assert (memory.search(keys(1), 20, before=0).value == -1).all()


def test_nothing_there_is_found_as_nothing(tmp_path: Path):
    """Also by a reader of a memory that was never written, which stays unwritten."""
    reader = open_memory(tmp_path, write=False)
    found = reader.search(keys(2), 3)
    assert len(reader) == 0 and (found.value == -1).all() and np.isneginf(found.similarity).all()
    assert list(tmp_path.iterdir()) == []


def test_opening_again_finds_the_same(tmp_path: Path):
    with open_memory(tmp_path) as memory:
        for n in range(4):
            remember(memory, n)
        before, number = memory.search(keys(5, seed=9), 6), memory.begin()
    with open_memory(tmp_path) as again:
        assert again.told == [] and (len(again), again.clock, again.begin()) == (12, 12, number)
        assert np.array_equal(again.search(keys(5, seed=9), 6).similarity, before.similarity)
        assert np.array_equal(again.search(keys(5, seed=9), 6).value, before.value)


def test_a_long_turn_is_kept_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(conversation_module, "TURN_TOKENS", 4)
    with open_memory(tmp_path) as memory:
        memory.append(0, range(11), keys(10), first=100)
        assert [turn.tokens.tolist() for turn in memory.turns()] == [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8], [8, 9, 10]]
        assert memory.entries.position.tolist() == list(range(100, 110))
        assert memory.entries.value.tolist() == list(range(1, 11))


def test_keys_that_are_not_finite_are_refused_and_leave_nothing(tmp_path: Path):
    with open_memory(tmp_path) as memory:
        remember(memory, 0)
        with pytest.raises(ArtifactError, match="not finite"):
            memory.append(1, [1, 2], np.full((1, WIDTH), np.nan, dtype=np.float32))
        assert len(memory) == 3 == len(open_memory(tmp_path, write=False))


def refuse(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_snapshot_that_the_disk_refuses_loses_no_piece_of_a_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It is only a copy: the turn is remembered whole, the refusal is told once, and closing gives the memory free."""
    monkeypatch.setattr(conversation_module, "TURN_TOKENS", 4)
    monkeypatch.setattr(index_module, "FLAT_UP_TO", 5)
    with monkeypatch.context() as full:
        full.setattr(snapshot, "save", refuse)
        with open_memory(tmp_path) as memory:
            assert memory.append(0, range(31), keys(30)) == 30
            assert tokens_of(memory) == list(range(30)) and memory.search(keys(30)[29:], 1).value[0, 0] == 30
    (told,) = memory.told
    assert snapshot.LISTS in told and "no space left" in told
    with open_memory(tmp_path) as again:
        assert tokens_of(again) == list(range(30))


def test_what_is_too_much_stays_until_the_disk_lets_it_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with open_memory(tmp_path, limit=512) as memory:
        remember(memory, 0, rows=512)
        with monkeypatch.context() as full:
            full.setattr("nano_think.memory.journal.Journal._publish", refuse)
            assert remember(memory, 1) == 515 and remember(memory, 2) == 518
        assert len(memory) == 518 and len(memory.told) == 1
        assert remember(memory, 3) == 521
        assert tokens_of(memory) == [n for turn in (1000, 2000, 3000) for n in range(turn, turn + 3)]


def test_one_writer_and_readers_beside_it(tmp_path: Path):
    with open_memory(tmp_path) as memory:
        remember(memory, 0)
        with pytest.raises(LockedError, match="memory 'alice': in use by process"):
            open_memory(tmp_path)
        reader = open_memory(tmp_path, write=False)
        remember(memory, 1)
        assert len(reader) == 3
        reader.refresh()
        assert tokens_of(reader) == tokens_of(memory) and reader.clock == memory.clock
        memory.forget([0])
        reader.refresh()
        assert tokens_of(reader) == [1000, 1001, 1002]
    open_memory(tmp_path).close()


def test_another_thread_may_close(tmp_path: Path):
    memory = open_memory(tmp_path)
    closing = threading.Thread(target=memory.close)
    closing.start()
    closing.join()
    open_memory(tmp_path).close()


def work_together(root: Path, enough) -> None:
    """Two threads add and two search until `enough`(turns so far); afterwards all is there, once."""
    turns, wrong = [0, 0], []
    memory = open_memory(root)

    def add(one: int) -> None:
        while not enough(turns[one]):
            remember(memory, 2 * turns[one] + one)
            turns[one] += 1

    def look() -> None:
        while any(not enough(count) for count in turns):
            before = memory.clock
            found = memory.search(keys(1), 8, before=before)
            if found.time.max() >= before or (found.value[found.time >= 0] < 0).any():
                wrong.append(found)

    def run(job, *arguments) -> None:
        try:
            job(*arguments)
        except BaseException as error:
            turns[:] = [10**9] * 2
            wrong.append(error)

    threads = [threading.Thread(target=run, args=job) for job in ((add, 0), (add, 1), (look,), (look,))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, wrong
    expected = sorted(1000 * (2 * n + one) + t for one in (0, 1) for n in range(turns[one]) for t in range(3))
    assert sorted(tokens_of(memory)) == expected
    memory.close()
    assert sorted(tokens_of(open_memory(root, write=False))) == expected


def test_threads_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Also while the index is trained anew."""
    monkeypatch.setattr(index_module, "FLAT_UP_TO", 60)
    work_together(tmp_path, lambda turns: turns >= 40)


@pytest.mark.slow
def test_threads_lose_nothing_in_five_seconds(tmp_path: Path):
    end = time.monotonic() + 5
    work_together(tmp_path, lambda _: time.monotonic() > end)


def test_the_oldest_turns_go_when_there_are_too_many(tmp_path: Path):
    """Entries, file and clock: the first two stay bounded, the third goes on."""
    with open_memory(tmp_path, limit=512) as memory:
        sizes = []
        for n in range(40):
            remember(memory, n, rows=50)
            assert len(memory) <= 512
            sizes.append((memory.folder / "entries.log").stat().st_size)
        assert memory.clock == 2000
        assert tokens_of(memory)[-1] == 39_049 and tokens_of(memory)[0] % 1000 == 0
        assert max(sizes[20:]) < max(sizes[:20]) + 10, "but for the digits of the clock"
        assert memory.entries.time.tolist() == list(range(2000 - len(memory), 2000))


def test_a_turn_as_large_as_the_limit_stays(tmp_path: Path):
    with open_memory(tmp_path, limit=512) as memory:
        for n in range(3):
            remember(memory, n, rows=512)
            assert tokens_of(memory) == list(range(1000 * n, 1000 * n + 512))


def test_a_limit_below_one_turn_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="wanted at least 512 entries, got 5"):
        open_memory(tmp_path, limit=5)


@pytest.mark.parametrize(
    ("owner", "message"),
    [
        (Owner(model="c" * 64, tokenizer="b" * 64, width=WIDTH), "wanted model cccccccccccc, got aaaaaaaaaaaa"),
        (Owner(model="a" * 64, tokenizer="d" * 64, width=WIDTH), "wanted tokenizer dddddddddddd, got bbbbbbbbbbbb"),
        (Owner(model="a" * 64, tokenizer="b" * 64, width=8), "wanted width 8, got 4"),
    ],
    ids=["model", "tokenizer", "width"],
)
def test_another_models_memory_is_refused(owner: Owner, message: str, tmp_path: Path):
    """Both digests are named, and what to do."""
    with open_memory(tmp_path) as memory:
        remember(memory, 0)
    memory.folder.rename(tmp_path / "alice")
    for write in (False, True):
        with pytest.raises(ArtifactError, match=f"{message}; .*--encode-again"):
            conversation_module.Conversations(tmp_path / "alice", owner, write=write)
    conversation_module.Conversations(tmp_path / "alice", OWNER, write=True).close()


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a memory of 90 entries whose index was trained on 63."""
    monkeypatch.setattr(index_module, "FLAT_UP_TO", 60)
    with open_memory(tmp_path) as memory:
        for n in range(30):
            remember(memory, n)
    return tmp_path


def test_a_snapshot_spares_the_training(trained: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        patch.setattr(index_module.Index, "_trained", None)
        again = open_memory(trained, write=False)
    assert (again._store.index.kind, again._store.index.trained_on, len(again)) == ("ivf", 63, 90)
    assert again.search(keys(3, seed=5), 1).value[:, 0].tolist() == [5001, 5002, 5003]


@pytest.mark.parametrize("name", [snapshot.LISTS, snapshot.ABOUT])
@pytest.mark.parametrize("spoil", [Path.unlink, lambda p: p.write_bytes(p.read_bytes()[:-9]), lambda p: flip(p, 30)])
def test_without_a_snapshot_to_be_believed_the_log_is_enough(name: str, spoil, trained: Path):
    (folder,) = (trained / "memory").glob("*/alice")
    spoil(folder / name)
    again = open_memory(trained)
    assert len(again) == 90 and again.search(keys(3, seed=5), 1).value[:, 0].tolist() == [5001, 5002, 5003]
    again.close()
    assert again._store.index.trained_on == 90
    assert snapshot.load_snapshot(folder, again._journal.head.generation, 90, WIDTH)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


def test_a_snapshot_of_a_log_that_is_gone_is_not_believed(trained: Path):
    """Put back after an erasure, it is whole and of as many entries, and still another log's."""
    (folder,) = (trained / "memory").glob("*/alice")
    old = {name: (folder / name).read_bytes() for name in (snapshot.LISTS, snapshot.ABOUT)}
    with open_memory(trained) as memory:
        memory.forget([3])
        remember(memory, 40)
    for name, content in old.items():
        (folder / name).write_bytes(content)
    generation = open_memory(trained, write=False)._journal.head.generation
    assert snapshot.load_snapshot(folder, generation, 90, WIDTH) is None


def test_a_flipped_number_of_a_snapshot_is_noticed(trained: Path):
    """In a centre, where any number would do."""
    (folder,) = (trained / "memory").glob("*/alice")
    generation = open_memory(trained, write=False)._journal.head.generation
    assert snapshot.load_snapshot(folder, generation, 90, WIDTH)
    content = (folder / snapshot.LISTS).read_bytes()
    flip(folder / snapshot.LISTS, 8 + int.from_bytes(content[:8], "little") + 1)
    assert snapshot.load_snapshot(folder, generation, 90, WIDTH) is None


def test_what_a_killed_rewriting_left_is_swept(tmp_path: Path):
    with open_memory(tmp_path) as memory:
        remember(memory, 0)
    left = memory.folder / ".entries.log.1-1.tmp"
    left.write_bytes(b"half of a log")
    assert len(open_memory(tmp_path, write=False)) == 3 and left.exists()
    with open_memory(tmp_path) as memory:
        assert len(memory) == 3 and not left.exists()
