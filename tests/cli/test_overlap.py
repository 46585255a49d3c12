"""`nano-think eval` on the model's own text: refused, unless the user insists; and told where it cannot be checked."""

import json
import shutil

import pytest

from nano_think.data.shards import read_documents
from nano_think.evaluation.overlap import SEEN


@pytest.fixture
def lineage(copy, nano_run):
    """The model with its own text beside it."""
    for stage in ("ingest", "tokens"):
        place = nano_run.folder(stage)
        shutil.copytree(place, copy / place.relative_to(nano_run.root))
    return copy


@pytest.fixture
def write(tmp_path):
    def to(*texts):
        path = tmp_path / "mine.jsonl"
        path.write_text("".join(json.dumps({"text": text, "id": n}) + "\n" for n, text in enumerate(texts)))
        return path

    return to


def first_of(nano_run, split):
    return next(read_documents(nano_run.folder("ingest"), split)).text


@pytest.mark.parametrize("split", ["train", "router", "validation"])
def test_own_text_is_refused(lineage, nano_run, say, write, split):
    """Exit 3 before the model is loaded: how many, which, and what to do."""
    file = write("Something new.", first_of(nano_run, split))
    told = say("eval", "--data", file, "--root", lineage)
    assert told.code == 3 and told.out == "" and told.err.count("\n") == 1
    assert f"1 of 2 documents are text that the model was made from ({split} 1): {file}:2 (id 1)" in told.err
    assert "--allow-overlap" in told.err


def test_own_text_is_scored_when_the_user_insists(lineage, nano_run, say, write):
    """With the figures comes the remark, and the figures' keys are as ever."""
    file = write("Something new.", first_of(nano_run, "train"))
    told = say("eval", "--data", file, "--allow-overlap", "--no-memory", "--json", "--root", lineage)
    assert told.code == 0, told.err
    assert told.err.startswith("note: 1 of 2 documents are text that the model was made from")
    assert told.json["documents"] == 2


def test_held_out_text_is_scored_in_silence(lineage, nano_run, say, write):
    """The test split is what is there to be measured on."""
    told = say("eval", "--data", write(first_of(nano_run, "test")), "--no-memory", "--json", "--root", lineage)
    assert (told.code, told.err) == (0, "")


def test_unchecked_overlap_is_told(copy, nano_run, say, write):
    """A model without its text beside it: one line, no refusal."""
    told = say("eval", "--data", write(first_of(nano_run, "train")), "--no-memory", "--json", "--root", copy)
    assert told.code == 0
    assert told.err.startswith("note: not checked whether the model was made from these") and told.err.count("\n") == 1


def test_damaged_digests_stop_it(lineage, nano_run, say, write):
    """A flipped bit must not let a copy through."""
    (seen,) = lineage.glob(f"ingest/*/{SEEN}")
    content = bytearray(seen.read_bytes())
    content[len(content) // 2] ^= 1
    seen.write_bytes(content)
    told = say("eval", "--data", write(first_of(nano_run, "train")), "--root", lineage)
    assert told.code == 4 and str(seen) in told.err and told.err.count("\n") == 1
