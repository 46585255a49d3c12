"""What is forgotten is gone, from every file; what sleeps stays as true as it was."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from nano_think.core.errors import StorageError
from nano_think.memory import index as index_module
from nano_think.memory import merging
from nano_think.memory.conversation import Conversations
from nano_think.memory.entries import Entries
from nano_think.memory.merging import merge
from nano_think.memory.read import Neighbours
from nano_think.memory.store import VectorStore
from tests.memory.conversations import WIDTH, keys, open_memory, remember, tokens_of


def everything(root: Path) -> bytes:
    """All bytes of all files below a folder."""
    return b"".join(path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file())


def traces(n: int) -> list[bytes]:
    """What turn `n` is in a file: its tokens and each of its keys."""
    return [np.arange(1000 * n, 1000 * n + 4, dtype=np.int32).tobytes(), *(key.tobytes() for key in keys(3, seed=n))]


def test_what_is_forgotten_leaves_no_bytes_behind(tmp_path: Path):
    with open_memory(tmp_path) as memory:
        for n in range(4):
            remember(memory, n)
        assert all(trace in everything(tmp_path) for n in range(4) for trace in traces(n))
        assert memory.forget([1, 3]) == 6
        assert tokens_of(memory) == [0, 1, 2, 2000, 2001, 2002]
        assert (memory.search(keys(3, seed=1), 9).document != 1).all()
        for n, left in enumerate([True, False, True, False]):
            assert [trace in everything(tmp_path) for trace in traces(n)] == [left] * 4
        assert memory.clock == 12 and memory.begin() == 4, "neither a time nor a number comes back"
        remember(memory, 5)
    assert tokens_of(open_memory(tmp_path, write=False))[-3:] == [5000, 5001, 5002]


def test_all_can_be_forgotten(tmp_path: Path):
    with open_memory(tmp_path) as memory:
        for n in range(3):
            remember(memory, n)
        assert memory.forget() == 9 and len(memory) == 0
        assert not any(trace in everything(tmp_path) for n in range(3) for trace in traces(n))


def test_a_snapshot_tells_nothing_of_what_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its centres are made of keys: it goes before the log is written anew, and comes back without them."""
    monkeypatch.setattr(index_module, "FLAT_UP_TO", 10)
    with open_memory(tmp_path) as memory:
        for n in range(9):
            remember(memory, n)
        before = (memory.folder / "lists.safetensors").read_bytes()
        memory.forget(range(1, 9))
        assert not (memory.folder / "lists.safetensors").exists() and before not in everything(tmp_path)
        assert tokens_of(memory) == [0, 1, 2]


def test_a_disk_that_is_full_while_forgetting_keeps_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with open_memory(tmp_path) as memory:
        for n in range(3):
            remember(memory, n)

        def refuse(*_) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("nano_think.memory.journal.pack", refuse)
            with pytest.raises(StorageError, match="no space left"):
                memory.forget([1])
        assert len(memory) == 9
        remember(memory, 3)
        assert memory.forget([1]) == 3
    assert [path.name for path in memory.folder.iterdir() if path.suffix == ".tmp"] == []


@pytest.mark.slow
@pytest.mark.parametrize("records", [0, 1, 2])
def test_a_kill_while_forgetting_leaves_the_old_log_and_no_more(records: int, tmp_path: Path):
    """Nothing half-written stays once the memory is opened again."""
    with open_memory(tmp_path) as memory:
        for n in range(3):
            remember(memory, n)
    command = [sys.executable, str(Path(__file__).with_name("killed.py")), str(tmp_path), "forget", str(records)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert list(memory.folder.glob(".*.tmp"))
    with open_memory(tmp_path) as memory:
        assert len(memory) == 9 and not list(memory.folder.glob(".*.tmp"))


def merge_one_by_one(entries: Entries, threshold: float) -> np.ndarray:
    """The plain twin of `merge`, for fewer entries than a block."""
    weight_S, leaders = entries.weight.copy(), []
    for one in reversed(range(len(entries))):
        for leader in leaders:
            alike = all(column[leader] == column[one] for column in (entries.value, entries.document))
            if alike and entries.key[leader] @ entries.key[one] >= threshold:
                weight_S[leader] += weight_S[one]
                weight_S[one] = 0
                break
        else:
            leaders.append(one)
    return weight_S


def near_duplicates(groups: int, copies: int, noise: float = 1e-3) -> Entries:
    """Groups of keys that are almost the same, shuffled; every third of a group has another value, every fourth is of
    another document.
    """
    generator = np.random.default_rng(0)
    number = generator.permutation(np.repeat(np.arange(groups), copies))
    key_SD = keys(groups)[number] + (noise * generator.normal(size=(len(number), WIDTH))).astype(np.float32)
    key_SD /= np.linalg.norm(key_SD, axis=1, keepdims=True)
    place_S = np.arange(len(number))
    return Entries.of(key_SD, np.where(place_S % 3 == 0, 99, number % 5), document=(place_S % 4 == 0))


def test_merging_is_its_plain_twin():
    entries = near_duplicates(20, 6)
    weight_S = merge(entries, 0.99)
    np.testing.assert_array_equal(weight_S, merge_one_by_one(entries, 0.99))
    assert weight_S.sum() == 120 and 20 <= (weight_S > 0).sum() < 80
    for document in (0, 1):
        mine_S = entries.document == document
        assert weight_S[mine_S].sum() == mine_S.sum(), "none stands for another's"


def test_merging_in_blocks_keeps_the_count_and_the_newest(monkeypatch: pytest.MonkeyPatch):
    """Groups that are far from each other are merged alike whatever the blocks."""
    entries = near_duplicates(12, 9)
    whole = merge(entries, 0.9999)
    monkeypatch.setattr(merging, "BLOCK", 5)
    weight_S = merge(entries, 0.9999)
    assert weight_S.sum() == whole.sum() == len(entries)
    for leader in np.flatnonzero(weight_S == 0):
        alike = (entries.key @ entries.key[leader] >= 0.9999) & (entries.value == entries.value[leader])
        alike &= entries.document == entries.document[leader]
        assert (np.flatnonzero(alike & (weight_S > 0)) > leader).any()


def test_copies_merge_without_changing_what_memory_says():
    """p_memory of exact copies is the same before and after, where all of them are found."""
    number = np.random.default_rng(1).integers(0, 6, size=60)
    entries = Entries.of(keys(6)[number], number % 3)
    weight_S = merge(entries, 0.999)
    asleep = VectorStore(
        Entries.of(entries.key[weight_S > 0], entries.value[weight_S > 0], weight=weight_S[weight_S > 0])
    )
    assert len(asleep) == 6
    for token in range(3):
        before, after = (says(store, token, 60) for store in (VectorStore(entries), asleep))
        torch.testing.assert_close(before, after)


def says(store: VectorStore, token: int, k: int) -> torch.Tensor:
    similarity, entry = store.find(keys(8, seed=3), k)
    arrays = (similarity, store.values_of(entry), store.weights_of(entry))
    similarity_Tk, value_Tk, weight_Tk = map(torch.from_numpy, arrays)
    found = Neighbours(similarity=similarity_Tk, value=value_Tk, weight=weight_Tk)
    return found.probability(torch.full((8,), token), 10.0)


def test_merging_tells_no_query_what_came_after_it():
    """The weight is the newest's: a query between two copies sees neither the younger nor its count."""
    entries = Entries.of(keys(1)[[0, 0, 0]], np.array([5, 5, 5]), time=np.array([0, 10, 20]))
    assert merge(entries, 0.9).tolist() == [0, 0, 3]


def say_twice(memory: Conversations, document: int) -> None:
    """A document that says the same words twice, in two turns, and then others."""
    memory.append(document, [1, 2, 3], keys(2))
    memory.append(document, [1, 2, 3], keys(2), first=2)
    memory.append(document, [3, 4], keys(1, seed=7), first=4)


def tokens_by_turn(memory: Conversations) -> list[tuple[int, list[int]]]:
    return [(turn.document, turn.tokens.tolist()) for turn in memory.turns()]


def test_sleep_is_kept_and_told(tmp_path: Path):
    """Words that a document says twice become one with both weights; a turn of which no entry is left keeps its text,
    wherever the memory is opened again.
    """
    with open_memory(tmp_path) as memory:
        say_twice(memory, 0)
        memory.append(0, [8, 2, 9], np.concatenate([keys(1), keys(1, seed=8)]), first=5)
        said = tokens_by_turn(memory)
        assert memory.sleep(0.99) == 3
        assert [len(turn) for turn in memory.turns()] == [0, 1, 1, 2] and tokens_by_turn(memory) == said
        assert memory.sleep(0.99) == 0 and tokens_by_turn(memory) == said
    with open_memory(tmp_path) as memory:
        assert tokens_by_turn(memory) == said and memory.clock == 7
        assert memory.entries.weight.tolist() == [2, 1, 3, 1]
        assert memory.entries.value.tolist() == [3, 4, 2, 9] and memory.entries.time.tolist() == [3, 4, 5, 6]
        assert memory.search(keys(1), 1).weight.tolist() == [[3.0]]
        memory.append(0, [1, 2, 3], keys(2), first=7)
        assert memory.sleep(0.99) == 2 and memory.entries.weight.tolist() == [1, 1, 4, 3]
        assert [len(turn) for turn in memory.turns()] == [0, 0, 1, 1, 2]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["older first", "newer first"])
def test_what_sleeps_in_one_document_is_not_another_s(order: tuple[int, int], tmp_path: Path):
    """Two say the same; whichever is forgotten first leaves nothing, and takes nothing of the other along."""
    with open_memory(tmp_path) as memory:
        for document in (0, 1):
            say_twice(memory, document)
        plain = tokens_by_turn(memory)
        assert memory.sleep(0.99) == 4 and tokens_by_turn(memory) == plain
        assert memory.entries.weight.tolist() == [2, 2, 1] * 2
        first, last = order
        assert memory.forget([first]) == 3
        assert memory.entries.document.tolist() == [last] * 3 and memory.entries.weight.tolist() == [2, 2, 1]
        assert tokens_by_turn(memory) == [turn for turn in plain if turn[0] == last]
        assert memory.forget([last]) == 3 and not len(memory) and not tokens_by_turn(memory)
    assert all(key.tobytes() not in everything(tmp_path) for key in keys(2))


def test_readers_and_evictions_know_turns_without_entries(tmp_path: Path):
    """A reader that was open before the sleep sees what is left; the oldest turns go, with entries or without."""
    with open_memory(tmp_path, limit=512) as memory, open_memory(tmp_path, write=False) as reader:
        say_twice(memory, 0)
        reader.refresh()
        memory.sleep(0.99)
        reader.refresh()
        assert len(reader) == 3 and [len(turn) for turn in reader.turns()] == [0, 2, 1]
        remember(memory, 1, rows=200)
        reader.refresh()
        assert len(reader) == 203
        remember(memory, 2, rows=400)
        assert {turn.document for turn in memory.turns()} == {2}
