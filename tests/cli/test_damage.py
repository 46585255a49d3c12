"""A flipped byte in an artifact: every verb that reads it refuses, with exit code 4 and the file's name."""

import shutil

import pytest

from nano_think.experts import EXPERTS

STAGES = (
    "ingest",
    "tokenizer",
    "tokens",
    "embedding",
    *EXPERTS,
    "dense",
    "router",
    "memory",
    "calibration",
    "evaluate",
)


@pytest.fixture
def root(nano_run, tmp_path):
    """A copy of the finished run."""
    unwanted = shutil.ignore_patterns(".prefect", "mlflow*", ".mlflow*")
    return shutil.copytree(nano_run.root, tmp_path / "root", ignore=unwanted)


def flip(root, nano_run, stage):
    """Flip the last byte of the largest file of a stage's artifact."""
    place = root / nano_run.folder(stage).relative_to(nano_run.root)
    file = max((one for one in place.rglob("*") if one.is_file()), key=lambda one: one.stat().st_size)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    return file


READS = {
    ("generate", "--prompt", "a"): ("router", "memory"),
    ("eval", "--data", "FILE"): ("router", "memory", "calibration", "dense"),
    ("data", "stats"): ("ingest", "tokenizer", "tokens"),
    ("data", "preview"): ("ingest", "tokenizer", "tokens"),
    ("lineage", "report"): (*STAGES, "report"),
    ("compare", "latest", "latest"): ("evaluate",),
    ("infill", "--before", "a", "--after", "b", "--tokens", "1"): ("router",),
    ("chat",): ("router", "memory"),
    ("serve", "--port", "0"): ("router", "memory"),
    ("export", "--out", "OUT"): ("router", "memory"),
}


@pytest.mark.parametrize(
    ("verb", "stage"), [(verb, stage) for verb, stages in READS.items() for stage in stages], ids=str
)
def test_verb_refuses_what_is_damaged(say, nano_run, root, tmp_path, verb, stage):
    """In one line."""
    text = tmp_path / "code" / "a.jsonl"
    text.parent.mkdir()
    text.write_text('{"text": "a text that nobody has seen before"}\n')
    file = flip(root, nano_run, stage)
    places = {"FILE": text, "OUT": tmp_path / "out"}
    told = say(*(places.get(word, word) for word in verb), "--root", root)
    assert told.code == 4, told.err
    assert str(file.relative_to(root)) in told.err and told.err.strip().count("\n") == 0
