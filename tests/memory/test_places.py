"""Where memories lie, and reading one anew with another model."""

from pathlib import Path

import numpy as np
import pytest

from nano_think.core.errors import ArtifactError, LockedError, UsageError
from nano_think.memory.conversation import LOCK, Conversations
from nano_think.memory.journal import LOG, Owner
from nano_think.memory.places import encode_again, erase, find, place, places
from tests.memory.conversations import OWNER, WIDTH, keys, open_memory, remember

OTHER = Owner(model="c" * 64, tokenizer=OWNER.tokenizer, width=2)


def count_context(tokens_T: np.ndarray) -> np.ndarray:
    """Stands in for a model of width 2: the key says how many tokens were read."""
    angle_T = np.arange(len(tokens_T)) / 10
    return np.stack([np.cos(angle_T), np.sin(angle_T)], axis=1).astype(np.float32)


def test_turns_are_encoded_again_with_what_is_left_of_their_document(tmp_path: Path):
    """Two documents, one of which stops and goes on; a gap, and another document, begin the context anew."""
    with open_memory(tmp_path) as memory:
        memory.append(0, [1, 2, 3], keys(2))
        memory.append(1, [7, 8], keys(1))
        memory.append(0, [3, 4, 5], keys(2, seed=1), first=2)
        memory.append(0, [9, 9], keys(1, seed=2), first=6)
    new = place(tmp_path, OTHER.model, "alice")
    encode_again(memory.folder, new, OTHER, count_context)
    with Conversations(new, OTHER, write=True) as again:
        assert again.clock == memory.clock == 6 and again.begin() == 2
        for name in ("token", "value", "document", "position", "time"):
            assert np.array_equal(getattr(again.entries, name), getattr(memory.entries, name))
        read = np.round(np.arctan2(again.entries.key[:, 1], again.entries.key[:, 0]) * 10)
        assert read.tolist() == [0, 1, 0, 2, 3, 0]


def test_weights_and_gaps_of_a_sleep_are_kept(tmp_path: Path):
    with open_memory(tmp_path) as memory:
        memory.append(0, [1, 2, 1, 2, 3], np.concatenate([keys(2)] * 2))
        assert memory.sleep(0.99) == 1
    new = place(tmp_path, OTHER.model, "alice")
    encode_again(memory.folder, new, OTHER, count_context)
    again = Conversations(new, OTHER)
    assert again.entries.weight.tolist() == [1, 2, 1] and again.entries.position.tolist() == [1, 2, 3]
    assert np.allclose(again.entries.key, count_context(np.arange(4))[1:])


def test_a_turn_that_sleep_left_no_entry_of_is_read_again(tmp_path: Path):
    """Its tokens are the context of those behind it, and it stays a turn."""
    with open_memory(tmp_path) as memory:
        memory.append(0, [1, 2, 1], keys(2))
        memory.append(0, [1, 2, 1, 3], np.concatenate([keys(2), keys(1, seed=1)]), first=2)
        assert memory.sleep(0.99) == 2
    new = place(tmp_path, OTHER.model, "alice")
    encode_again(memory.folder, new, OTHER, count_context)
    again = Conversations(new, OTHER)
    assert [turn.tokens.tolist() for turn in again.turns()] == [[1, 2, 1], [1, 2, 1, 3]]
    assert again.entries.weight.tolist() == [2, 2, 1] and again.entries.position.tolist() == [2, 3, 4]
    assert np.allclose(again.entries.key, count_context(np.arange(5))[2:])


def test_a_root_that_is_not_there_is_told(tmp_path: Path):
    for namespace in (None, "alice"):
        with pytest.raises(UsageError, match=r"no/root': no such folder; .*--root"):
            places(tmp_path / "no" / "root", namespace)


def test_the_models_own_memory_comes_first(tmp_path: Path):
    for owner in (OWNER, Owner(model="d" * 64, tokenizer=OWNER.tokenizer, width=WIDTH)):
        with open_memory(tmp_path, owner=owner) as memory:
            remember(memory, 0)
        assert find(tmp_path, owner, "alice") == memory.folder
    with pytest.raises(ArtifactError, match=r"belongs to model dddddddddddd, wanted cccccccccccc; .*--encode-again"):
        find(tmp_path, OTHER, "alice")
    found = find(tmp_path, OTHER, "alice", count_context)
    assert found.parent.name == OTHER.model and len(places(tmp_path, "alice")) == 3


@pytest.mark.parametrize("name", ["", "A", "../x", "a/b", "manifest.json", "-x", "ä", "a" * 65, "a\n", "."])
def test_names_that_could_lead_elsewhere_are_refused(name: str, tmp_path: Path):
    with pytest.raises(UsageError, match="namespace"):
        place(tmp_path, "m", name)


def test_nobody_else_writes_before_all_is_erased(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """While any file of a memory is left, a writer is refused: what it would write, the eraser would remove."""
    with open_memory(tmp_path) as memory:
        remember(memory, 0)
    (memory.folder / "a file").touch()
    unlink, left = Path.unlink, []

    def unlink_and_try(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok)
        if path.name != LOCK and path.parent == memory.folder:
            with pytest.raises(LockedError):
                open_memory(tmp_path)
            left.append(path.name)

    # In whatever order the folder lists its files, the lock first among them.
    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda folder: sorted(listed(folder), key=lambda path: path.name != LOCK))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", unlink_and_try)
        erase(memory.folder)
    assert left[-1] == LOG and "a file" in left and not memory.folder.exists()


def test_what_is_erased_can_be_written_anew(tmp_path: Path):
    with open_memory(tmp_path) as memory:
        remember(memory, 0)
    erase(memory.folder)
    assert not memory.folder.exists() and places(tmp_path) == []
    with open_memory(tmp_path) as memory:
        assert len(memory) == 0
