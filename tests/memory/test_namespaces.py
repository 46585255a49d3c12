"""Memories by namespace: opened when wanted, for writing where nobody else writes, and not too many of them."""

import numpy as np
import pytest

from nano_think.core.errors import UsageError
from nano_think.memory.journal import Owner
from nano_think.memory.namespaces import Namespaces
from nano_think.memory.places import erase

OWNER = Owner(model="m" * 8, tokenizer="t", width=4)


@pytest.fixture
def namespaces(tmp_path):
    held = Namespaces(tmp_path, OWNER, most=2)
    yield held
    held.close()


def test_the_one_that_was_not_wanted_for_longest_is_closed(namespaces):
    alice, bob = namespaces("alice"), namespaces("bob")
    assert namespaces("alice") is alice
    carol = namespaces("carol")
    assert (alice.write, bob.write, carol.write) == (True, False, True)
    assert namespaces("bob").write and not alice.write


def test_what_is_in_use_is_not_closed(namespaces):
    alice = namespaces("alice")
    alice.users = 1
    opened = [namespaces(name) for name in ("bob", "carol", "dora")]
    assert alice.write and [one.write for one in opened] == [False, False, True]
    alice.users = 0
    namespaces("emil")
    assert not alice.write


def test_what_another_process_writes_is_read_until_it_leaves(namespaces, tmp_path):
    other = Namespaces(tmp_path, OWNER)
    other("alice")
    assert not namespaces("alice").write
    other.close()
    assert namespaces("alice").write


def test_what_is_only_read_is_neither_made_nor_locked(namespaces, tmp_path):
    assert len(namespaces("alice", write=False)) == 0 and not list(tmp_path.iterdir())
    other = Namespaces(tmp_path, OWNER)
    written = other("alice")
    reader = namespaces("alice", write=False)
    written.append(0, [1, 2], np.eye(1, 4, dtype=np.float32))
    assert namespaces("alice", write=False) is reader and (len(reader), reader.write) == (1, False)
    other.close()
    assert namespaces("alice").write and namespaces("alice", write=False).write


def test_what_another_process_erased_is_read_no_more(namespaces, tmp_path):
    other = Namespaces(tmp_path, OWNER)
    other("alice").append(0, [1, 2], np.eye(1, 4, dtype=np.float32))
    other.close()
    reader = namespaces("alice", write=False)
    erase(reader.folder)
    assert len(reader) == 1 and len(namespaces("alice", write=False)) == 0 and not namespaces.exists("alice")
    reader.refresh()
    assert len(reader) == 0 and not reader.folder.exists()


def test_a_name_that_is_none_is_refused(namespaces):
    with pytest.raises(UsageError):
        namespaces("../alice")
