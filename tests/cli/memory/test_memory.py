"""`nano-think memory`: what was said is found, told, merged and erased; another's and another model's is not read."""

import json

import pytest

from nano_think.memory.conversation import Conversations
from nano_think.memory.journal import LOG, read_owner
from tests.cli.memory.conftest import TEXTS, make_model, say_to


def test_search_finds_the_place_that_the_text_came_from(root, say):
    """The end of a text that was said is nearest to itself; what came next is told."""
    told = say("memory", "search", "--namespace", "alice", "--text", TEXTS[0][:20], "--k", 3, "--root", root, "--json")
    assert told.code == 0, told.err
    best, *others = told.json["found"]
    assert best["similarity"] == pytest.approx(1, abs=1e-4) and best["document"] == 0 and len(others) == 2
    assert TEXTS[0][:20].endswith(best["text"][-4:]) and TEXTS[0][20:].startswith(best["next"])
    lines = say("memory", "search", "--namespace", "alice", "--text", TEXTS[0][:20], "--root", root).out.splitlines()
    assert len(lines) == 4 and lines[0].startswith("1.000  document 0, position ")


def test_search_finds_nothing_of_another_namespace(root, say):
    told = say("memory", "search", "--namespace", "bob", "--text", TEXTS[0], "--k", 99, "--root", root, "--json")
    assert told.code == 0 and all("cat" not in row["text"] for row in told.json["found"])


def test_stats_count_what_there_is(root, say, model):
    told = say("memory", "stats", "--root", root, "--json")
    assert [(one["namespace"], one["documents"], one["turns"]) for one in told.json["memories"]] == [
        ("alice", 2, 2),
        ("bob", 1, 1),
    ]
    alice = told.json["memories"][0]
    assert alice["model"] == model.digest and alice["entries"] == alice["stand_for"] > 20 and alice["bytes"] > 1000
    assert alice["newest"].endswith("+00:00")
    table = say("memory", "stats", "--namespace", "alice", "--root", root).out
    assert "alice" in table and "bob" not in table and model.digest[:12] in table


def test_stats_of_an_empty_root_is_no_error(tmp_path, say):
    assert say("memory", "stats", "--root", tmp_path).out == "nothing is remembered\n"
    assert say("memory", "stats", "--root", tmp_path, "--json").json == {"memories": []}


@pytest.mark.parametrize("words", [(), ("--json",), ("--namespace", "alice")], ids=["table", "json", "one"])
def test_a_root_that_does_not_exist_is_told(words, tmp_path, say):
    told = say("memory", "stats", "--root", tmp_path / "gone", *words)
    assert told.code == 2 and told.out == "" and told.err.count("\n") == 1
    assert f"root '{tmp_path / 'gone'}': no such folder" in told.err and "--root" in told.err
    assert not (tmp_path / "gone").exists()


def test_stats_show_what_is_whole_and_tell_each_that_is_damaged(root, say, model):
    """A line for each that is damaged, which names it and what to do; all others are there, and the code is 4."""
    for name, spoil in (("carol", lambda whole: whole[:-1] + b"x"), ("dora", lambda whole: whole[:20])):
        log = say_to(root, model, name, TEXTS[:1]) / LOG
        log.write_bytes(spoil(log.read_bytes()))
    say_to(root, model, "emil", TEXTS[:1])
    table, told = (say("memory", "stats", "--root", root, *words) for words in ((), ("--json",)))
    assert table.code == told.code == 4 and table.err == told.err
    assert [one["namespace"] for one in told.json["memories"]] == ["alice", "bob", "emil"]
    assert all((name in table.out) == whole for name, whole in (("alice", 1), ("emil", 1), ("carol", 0), ("dora", 0)))
    carol, dora = table.err.splitlines()
    assert all(line.startswith("nano-think: error: ") for line in (carol, dora))
    assert f"carol/{LOG}: the record at byte" in carol and "memory forget --all --namespace carol" in carol
    assert f"dora/{LOG}: cut off in its first record; remove the file" in dora
    (log,) = root.glob(f"memory/*/emil/{LOG}")
    log.unlink()
    log.mkdir()
    assert "emil: cannot be read (Is a directory)" in say("memory", "stats", "--root", root).err
    alone = say("memory", "stats", "--namespace", "carol", "--root", root)
    assert alone.code == 4 and alone.out == "" and alone.err.splitlines() == [carol], "not that nothing is remembered"


def test_export_tells_the_text_of_every_turn(root, say, tmp_path):
    told = say("memory", "export", "--namespace", "alice", "--root", root)
    rows = [json.loads(line) for line in told.out.splitlines()]
    assert [row["text"].removeprefix("<|bos|>").endswith(text) for row, text in zip(rows, TEXTS, strict=True)]
    assert [row["document"] for row in rows] == [0, 1] and len(rows[0]["tokens"]) == rows[0]["entries"] + 1
    assert all(text in row["text"] for row, text in zip(rows, TEXTS, strict=True))
    assert say("memory", "export", "--namespace", "alice", "--root", root, "--out", tmp_path / "all.jsonl").out == ""
    assert (tmp_path / "all.jsonl").read_text() == told.out


def test_forget_erases_a_document(root, say):
    told = say("memory", "forget", "--namespace", "alice", "--document", 1, "--root", root, "--json")
    assert told.code == 0 and told.json["entries"] > 5
    assert TEXTS[1] not in say("memory", "export", "--namespace", "alice", "--root", root).out
    assert TEXTS[0] in say("memory", "export", "--namespace", "alice", "--root", root).out


def test_forget_erases_a_document_of_one_model_alone(root, say, model):
    """Each model's memory numbers its own: document 1 of the other is another conversation."""
    other = make_model(root, 2)
    say_to(root, other, "alice", ["what the other model was told", TEXTS[0]])
    forget = ("memory", "forget", "--namespace", "alice", "--document", 1, "--root", root)

    def kept() -> list[tuple[str, int]]:
        rows = say("memory", "export", "--namespace", "alice", "--root", root).out.splitlines()
        return sorted((row["model"], row["document"]) for row in map(json.loads, rows))

    everything = sorted((one.digest, number) for one in (model, other) for number in (0, 1))
    refused = say(*forget)
    assert refused.code == 2 and refused.err.count("\n") == 1 and kept() == everything
    assert all(word in refused.err for word in ("--model", model.digest[:12], other.digest[:12]))
    assert say(*forget, "--model", "no-such").code == 2 and kept() == everything
    assert say(*forget, "--model", model.digest[:12]).code == 0
    assert kept() == sorted([(model.digest, 0), (other.digest, 0), (other.digest, 1)])
    assert say(*forget, "--model", "latest").code == 0
    assert kept() == sorted([(model.digest, 0), (other.digest, 0)])


def test_forget_all_of_one_model_leaves_the_others(root, say, model):
    other = make_model(root, 2)
    kept = say_to(root, other, "alice", TEXTS[:1])
    forget = ("memory", "forget", "--namespace", "alice", "--all", "--root", root)
    assert say(*forget, "--model", model.path).code == 0
    assert [log.parent for log in root.glob(f"memory/*/alice/{LOG}")] == [kept]


def test_forget_all_leaves_no_file_and_no_name(root, say):
    """Also of a memory that is damaged; the others stay."""
    (log,) = root.glob(f"memory/*/alice/{LOG}")
    log.write_bytes(log.read_bytes()[:-1] + b"x")
    told = say("memory", "stats", "--root", root)
    assert told.code == 4 and "nano-think memory forget --all --namespace alice" in told.err
    assert say("memory", "forget", "--namespace", "alice", "--all", "--root", root).code == 0
    assert not list(root.rglob("*alice*"))
    assert [one["namespace"] for one in say("memory", "stats", "--root", root, "--json").json["memories"]] == ["bob"]


def test_sleep_merges_what_was_said_twice(root, say, model):
    """In one conversation; what another one says too stays its own, and every turn's text is there afterwards."""
    folder = say_to(root, model, "alice", TEXTS)
    with Conversations(folder, read_owner(folder), write=True) as memory:
        for turn in [turn for turn in memory.turns() if turn.document < 2]:
            memory.append(turn.document, turn.tokens, turn.key, turn.first + len(turn.tokens))
        said, before = len(memory), [(turn.document, turn.tokens.tolist()) for turn in memory.turns()]
    told = say("memory", "sleep", "--namespace", "alice", "--threshold", 0.9999, "--root", root, "--json")
    with Conversations(folder, read_owner(folder)) as memory:
        assert told.json["left"] == len(memory) and told.json["merged"] + len(memory) == said
        assert told.json["merged"] >= said // 3 and memory.entries.weight.sum() == said
        assert {turn.document for turn in memory.turns() if not len(turn)} == {0, 1}
    told = say("memory", "export", "--namespace", "alice", "--root", root)
    rows = [json.loads(line) for line in told.out.splitlines()]
    assert [(row["document"], row["tokens"]) for row in rows] == before
    assert all(row["text"].endswith(TEXTS[row["document"] % 2]) for row in rows)
    alice = say("memory", "stats", "--namespace", "alice", "--root", root, "--json").json["memories"][0]
    assert (alice["documents"], alice["turns"], alice["stand_for"]) == (4, 6, said)
    assert "merged 0 entries" in say("memory", "sleep", "--namespace", "alice", "--threshold", 1, "--root", root).out


def test_another_models_memory_is_refused_or_encoded_again(root, say, model):
    """Refused, both digests are named; encoded again, the same turns are there with the other model's keys."""
    other = make_model(root, 2)
    search = ("memory", "search", "--namespace", "alice", "--text", TEXTS[0][:20], "--root", root, "--json")
    told = say(*search)
    assert told.code == 4 and told.err.count("\n") == 1
    assert all(word in told.err for word in (model.digest[:12], other.digest[:12], "--encode-again"))
    again = say(*search, "--encode-again")
    assert again.code == 0 and again.json["found"][0]["similarity"] == pytest.approx(1, abs=1e-4)
    assert say(*search).json == again.json
    old, new = (
        say("memory", "export", "--namespace", "alice", "--root", root).out.splitlines()[part::2] for part in (0, 1)
    )
    assert len(old) == len(new) == 2
    assert say(*search, "--model", model.path).json["found"][0]["document"] == 0
    assert say("memory", "forget", "--namespace", "alice", "--all", "--root", root).code == 0
    assert not list(root.rglob("*alice*")), "of every model"


def test_ids_of_another_tokenizer_cannot_be_encoded_again(root, say):
    make_model(root, 3, vocabulary=280)
    told = say("memory", "search", "--namespace", "alice", "--text", "a", "--root", root, "--encode-again")
    assert told.code == 4 and "has ids of tokenizer" in told.err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("stats", "--namespace", "alise"), 2, "Did you mean 'alice'?"),
        (("search", "--namespace", "carol", "--text", "a"), 2, "no memory 'carol'"),
        (("search", "--namespace", "../x", "--text", "a"), 2, "wanted 1 to 64 of a-z"),
        (("export", "--namespace", "manifest.json"), 2, "wanted 1 to 64 of a-z"),
        (("search", "--namespace", "alice", "--text", "a", "--k", 0), 2, "at least 1"),
        (("forget", "--namespace", "alice"), 2, "--document NUMBER ... or --all"),
        (("forget", "--namespace", "alice", "--document", 77), 2, "no document 77"),
        (("sleep", "--namespace", "alice", "--threshold", 1.5), 2, "at most 1, got 1.5"),
        (("dream",), 2, "unknown verb 'memory dream'"),
    ],
)
def test_mistakes_are_told_in_one_line(words, code, message, root, say):
    told = say("memory", *words, *(("--root", root) if len(words) > 1 else ()))
    assert told.code == code and message in told.err and told.err.count("\n") == 1, told.err


def test_a_memory_in_use_is_not_written(root, say):
    (folder,) = root.glob("memory/*/alice")
    with Conversations(folder, read_owner(folder), write=True):
        for words in (("sleep",), ("forget", "--document", 0), ("forget", "--all")):
            told = say("memory", *words, "--namespace", "alice", "--root", root)
            assert told.code == 6 and "in use by process" in told.err


def test_help_names_the_verbs(say):
    out = say("memory").out
    assert out == say("memory", "--help").out and all(verb in out for verb in ("stats", "forget", "sleep", "export"))
