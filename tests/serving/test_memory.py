"""What is remembered can be seen and erased, by namespace."""

import numpy as np
import pytest

from nano_think.core.errors import LockedError
from nano_think.memory.journal import Owner
from nano_think.memory.namespaces import Namespaces
from nano_think.serving.recall import Recall

OWNER = Owner(model="m" * 8, tokenizer="t", width=4)
SECRET = "the word was with all"


def remember(memories, tokenizer, namespace="default", text=SECRET):
    """A finished turn; its document's number."""
    memory, ids = memories(namespace), tokenizer.encode_document(text)
    key_TD = np.eye(OWNER.width, dtype=np.float32)[np.arange(len(ids) - 1) % OWNER.width]
    document = memory.begin()
    memory.append(document, ids, key_TD)
    return document


@pytest.fixture
def memories(tmp_path):
    held = Namespaces(tmp_path, OWNER)
    yield held
    held.close()


@pytest.fixture
def server(serving, memories, tokenizer):
    return serving(recall=Recall(memories, tokenizer))


def test_text_of_each_conversation_is_shown_the_newest_first(server, memories, tokenizer):
    remember(memories, tokenizer)
    remember(memories, tokenizer, text="in the beginning")
    told = server.client.get("/v1/memory/default").json()
    texts = [document["text"] for document in told["documents"]]
    assert texts == ["<|bos|>in the beginning", f"<|bos|>{SECRET}"]
    assert told["entries"] == sum(document["entries"] for document in told["documents"])


def test_one_conversation_is_erased_from_every_file(server, memories, tokenizer, tmp_path):
    kept, gone = remember(memories, tokenizer, text="in the beginning"), remember(memories, tokenizer)
    assert server.client.delete(f"/v1/memory/default/{gone}").json()["entries"] > 0
    (left,) = server.client.get("/v1/memory/default").json()["documents"]
    assert left["document"] == kept
    assert server.client.delete(f"/v1/memory/default/{gone}").status_code == 404


def test_all_is_erased(server, memories, tokenizer):
    remember(memories, tokenizer), remember(memories, tokenizer)
    server.client.delete("/v1/memory/default")
    assert server.client.get("/v1/memory/default").json()["documents"] == []


def test_namespaces_do_not_see_each_other(server, memories, tokenizer):
    remember(memories, tokenizer, "bob")
    assert server.client.get("/v1/memory/alice").json()["documents"] == []
    server.client.delete("/v1/memory/alice")
    assert len(server.client.get("/v1/memory/bob").json()["documents"]) == 1


@pytest.mark.parametrize("name", ["..", "..%2f..%2fetc", "Alice", "a.b", "x" * 65, "%00", "CON ", "a%20b"])
def test_names_cannot_leave_their_place(server, name, tmp_path):
    """400 from us, or 404 where the path is none; nothing is made outside."""
    before = sorted(tmp_path.parent.iterdir())
    assert server.client.get(f"/v1/memory/{name}").status_code in (400, 404)
    assert server.client.delete(f"/v1/memory/{name}").status_code in (400, 404, 405)
    assert sorted(tmp_path.parent.iterdir()) == before and not list(tmp_path.rglob("*.*"))


def test_memory_that_another_process_holds_is_told_without_its_name(serving, memories, tokenizer):
    def held(namespace, write):
        raise LockedError("memory 'default': in use by process 1 on a-secret-host")

    held.exists = lambda namespace: True
    answer = serving(recall=Recall(held, tokenizer)).client.get("/v1/memory/default")
    assert answer.status_code == 503 and "secret" not in answer.text


def test_looking_at_a_memory_keeps_nobody_from_writing_it(server, tokenizer, tmp_path):
    other = Namespaces(tmp_path, OWNER)
    remember(other, tokenizer)
    other.close()
    assert len(server.client.get("/v1/memory/default").json()["documents"]) == 1
    assert other("default").write
    other.close()


def test_asking_for_a_namespace_makes_none(server, tmp_path):
    """Else whoever can make a browser ask fills the disk and the process with open files."""
    assert server.client.get("/v1/memory/nobody").json()["documents"] == []
    assert server.client.delete("/v1/memory/nobody").json()["entries"] == 0
    assert server.client.delete("/v1/memory/nobody/0").status_code == 404
    assert not list(tmp_path.iterdir())


def test_text_behind_a_gap_is_shown_whole(server, memories, tokenizer):
    """What was erased or never kept lies between two turns of one document."""
    memory, ids = memories("default"), tokenizer.encode("was with all")
    document = remember(memories, tokenizer)
    memory.append(document, ids, np.eye(OWNER.width, dtype=np.float32)[np.zeros(len(ids) - 1, dtype=int)], 200)
    (told,) = server.client.get("/v1/memory/default").json()["documents"]
    assert told["text"] == f"<|bos|>{SECRET}was with all"


def test_number_of_a_document_must_be_one(server):
    assert server.client.delete("/v1/memory/default/first").status_code in (400, 422)


def test_memory_that_another_process_writes_is_read_and_erased_there(server, memories, tokenizer, tmp_path):
    """What it writes is seen; once it has left, this one writes."""
    other = Namespaces(tmp_path, OWNER)
    document = remember(other, tokenizer)
    (told,) = server.client.get("/v1/memory/default").json()["documents"]
    assert told["text"] == f"<|bos|>{SECRET}"
    remember(other, tokenizer, text="in the beginning")
    assert len(server.client.get("/v1/memory/default").json()["documents"]) == 2
    refused = server.client.delete(f"/v1/memory/default/{document}")
    assert refused.status_code == 503 and refused.json()["error"]["code"] == "in_use"
    other.close()
    assert server.client.delete(f"/v1/memory/default/{document}").json()["entries"] > 0
