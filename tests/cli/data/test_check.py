"""`nano-think data check`: each source told apart, all at once, and exit 0 only if all can be read."""

import json
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nano_think.cli.data.check import look
from nano_think.data.hub import HubSource
from nano_think.data.source import Reading
from nano_think.data.sources import SOURCES, groups


@pytest.fixture
def copy(tmp_path):
    """A local copy of a dataset in its own schema."""
    path = tmp_path / "stories" / "data" / "train-00000-of-00001-a.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table({"text": ["One day.", "", "Another day.", "The end.", "More.", "And more."]}), path)
    return tmp_path / "stories"


def rows(told):
    return {row["name"]: row for row in told.json["sources"]}


def test_the_seven_are_asked_by_default(say):
    """Without the hub: a line for each with what is wrong, licence, revision and what was wanted; the one that needs
    no hub is well; exit 3."""
    told = say("data", "check", "--json")
    assert told.code == 3 and told.json["ok"] is False
    found = rows(told)
    assert list(found) == groups()["seven"]
    for name, row in found.items():
        if name != "openbible":
            source = SOURCES[name]
            assert "HF_HUB_OFFLINE" in row["wrong"] and not row["ok"] and row["licence"] == source.licence
            assert (row["dataset"], row["revision"], row["rows"]) == (source.dataset, source.revision, source.rows)
    assert found["openbible"]["ok"] and found["openbible"]["documents"] == 10_000
    assert "6 of 7 sources cannot be read: arxiv_abstracts, codeparrot" in told.err


def test_each_source_is_one_line(say):
    """For people and for grep."""
    told = say("data", "check")
    lines = told.out.splitlines()
    assert told.code == 3 and [line.split()[1] for line in lines] == groups()["seven"]
    assert [line.split()[0] for line in lines].count("ok") == 1
    assert "0 of 10,000 documents; the hub is switched off" in lines[0] and "783a340c8a" in lines[0]


def test_all_well_is_exit_zero(say, files, copy):
    """A group, users' files and a local copy together: what lies on the machine is read to its end."""
    told = say("data", "check", "--sources", "kjv", files, f"tinystories:{copy}", "--json")
    assert (told.code, told.err) == (0, ""), told.err
    found = rows(told)
    assert told.json["ok"] and list(found) == ["kjv", "code/rows", "poems/rows", "tinystories"]
    assert found["code/rows"]["documents"] == 60 and found["tinystories"]["documents"] == 5
    assert found["tinystories"]["skipped"] == 1 and found["tinystories"]["characters"] == len("One day.")
    assert found["tinystories"]["revision"] is None


def test_files_are_read_to_their_end(say, files, tmp_path):
    """The last line counts like the first; the same flag as in a run leaves it out."""
    path = tmp_path / "mine/poems/rows.jsonl"
    path.write_text(path.read_text(encoding="utf-8") + "no json\n", encoding="utf-8")
    told = say("data", "check", "--sources", files, "--json")
    assert told.code == 3 and "rows.jsonl:61" in rows(told)["poems/rows"]["wrong"] and rows(told)["code/rows"]["ok"]
    told = say("data", "check", "--sources", files, "--ingest.bad-lines", "skip", "--json")
    assert told.code == 0 and rows(told)["poems/rows"]["skipped"] == 1


def test_what_is_not_there_hides_nothing_else(say, copy, tmp_path):
    """A folder without the dataset, a pattern without a file, damaged data, another schema: each its own line."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "other/data").mkdir(parents=True)
    pq.write_table(pa.table({"story": ["x"]}), tmp_path / "other/data/train-0.parquet")
    (tmp_path / "damaged/data").mkdir(parents=True)
    (tmp_path / "damaged/data/train-0.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "e.txt").write_bytes(b"\xff")
    specs = [f"tinystories:{tmp_path}/{name}" for name in ("empty", "other", "damaged")]
    found = look([*specs, "jsonl:/nowhere/*", f"text:{tmp_path}/e.txt", f"tinystories:{copy}"], Reading(), 3)
    assert [one.ok for one in found] == [False] * 5 + [True]
    for one, word in zip(
        found, ("no file there", "lacks text", "cannot be read", "no file matches", "not UTF-8"), strict=False
    ):
        assert one.wrong and word in one.wrong and "\n" not in one.wrong


def test_an_unknown_name_is_exit_two(say):
    """A wrong word is not a source that cannot be read."""
    told = say("data", "check", "--sources", "kjv", "tinystorys")
    assert told.code == 2 and "Did you mean 'tinystories'?" in told.err and told.out == ""


def test_of_the_hub_only_the_first_are_read(monkeypatch):
    """As many as are asked for, through the code that a run reads with."""
    read = []

    def stream(*_):
        for number in range(10**9):
            read.append(number)
            yield {"text": f"story {number}"}

    monkeypatch.setattr(HubSource, "check", lambda source: None)
    monkeypatch.setattr("nano_think.data.hub.stream", stream)
    (found,) = look(["tinystories"], Reading(), 5)
    assert found.ok and found.documents == 5 and found.characters == len("story 0") and len(read) <= 6


def test_all_are_asked_at_the_same_time(monkeypatch):
    """Six silent datasets cost the time of one."""
    together = threading.Barrier(6, timeout=20)
    monkeypatch.setattr(HubSource, "check", lambda source: together.wait() and None)
    monkeypatch.setattr("nano_think.data.hub.stream", lambda *_: iter([]))
    found = look(["seven"], Reading(), 1)
    assert [one.wrong for one in found if one.name != "openbible"] == ["no document in it"] * 6
    assert not together.broken


def test_unknown_verb_below_data_is_told(say):
    """With the nearest."""
    told = say("data", "chek")
    assert told.code == 2 and "Did you mean 'check'?" in told.err


def test_json_is_one_line(say):
    """The last one, and the only one."""
    told = say("data", "check", "--sources", "kjv", "--json")
    assert json.loads(told.out) == told.json
