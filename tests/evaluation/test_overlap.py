"""Planted copies of the model's own text are found, and nothing else is."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from nano_think.core.errors import ArtifactError, InputError
from nano_think.data.clean import SPLITS, text_digest
from nano_think.data.ingest import IngestConfig, ingest
from nano_think.evaluation.overlap import MADE_FROM, SEEN, find_overlap

CLEANER = {"min_chars": 1, "max_doc_bytes": 1000}
TEXTS = {split: [f"{split} text, number {number}" for number in range(40)] for split in SPLITS}


@pytest.fixture
def seen(tmp_path: Path) -> Path:
    """What ingestion leaves of its documents, in several record batches."""
    path, schema = tmp_path / SEEN, pa.schema([("digest", pa.binary(16)), ("split", pa.string())])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as file:
        for split, texts in TEXTS.items():
            digests = [text_digest(text)[:16] for text in texts]
            file.write_batch(pa.record_batch({"digest": digests, "split": [split] * len(texts)}, schema=schema))
    return path


def rows(tmp_path: Path, *texts: str, name: str = "x.jsonl", **more: object) -> Path:
    path = tmp_path / name
    path.write_text("".join(json.dumps({"text": text, **more}) + "\n" for text in texts), encoding="utf-8")
    return path


def test_new_text_does_not_overlap(seen: Path, tmp_path: Path) -> None:
    """A text that only begins like one of the model's is another one."""
    overlap = find_overlap([rows(tmp_path, "new", TEXTS["train"][0] + "!")], "error", seen, CLEANER)
    assert (overlap.documents, overlap.found, overlap.splits, overlap.first) == (2, 0, {}, [])


def test_every_split_that_something_is_fitted_on_counts(seen: Path, tmp_path: Path) -> None:
    """The test split is for measuring on; the others are not."""
    overlap = find_overlap([rows(tmp_path, *(texts[-1] for texts in TEXTS.values()))], "error", seen, CLEANER)
    assert overlap.splits == dict.fromkeys(MADE_FROM, 1) and overlap.documents == 4
    assert set(SPLITS) - set(MADE_FROM) == {"test"}


def test_the_texts_are_compared_as_they_were_cleaned(seen: Path, tmp_path: Path) -> None:
    """Line ends, control characters and composed letters hide no copy; the file's own cleaning bounds hold."""
    text = TEXTS["router"][3]
    overlap = find_overlap([rows(tmp_path, f"\x1b{text[:5]}\x07{text[5:]}")], "error", seen, CLEANER)
    assert overlap.splits == {"router": 1}
    assert find_overlap([rows(tmp_path, text)], "error", seen, CLEANER | {"min_chars": 100}).found == 0


def test_repeated_documents_are_all_counted_and_the_first_are_named(seen: Path, tmp_path: Path) -> None:
    """Over several files, with lines and ids, whose control characters do not reach the terminal."""
    first = rows(tmp_path, "new", TEXTS["train"][1], TEXTS["train"][1], name="a.jsonl", id="i\x1b[2J" + "d" * 99)
    second = rows(tmp_path, TEXTS["train"][2], TEXTS["validation"][2], name="b.jsonl")
    overlap = find_overlap([first, second], "error", seen, CLEANER)
    assert overlap.splits == {"train": 3, "validation": 1}
    named = f"(id i[2J{'d' * 36})"
    assert overlap.first == [f"{first}:2 {named}", f"{first}:3 {named}", f"{second}:1"]
    assert overlap.told == (
        "4 of 5 documents are text that the model was made from (train 3, validation 1): "
        f"{', '.join(overlap.first)}, ..."
    )


def test_bad_lines_are_told_or_skipped(seen: Path, tmp_path: Path) -> None:
    """The files are read as evaluation reads them."""
    path = rows(tmp_path, TEXTS["train"][0])
    path.write_text("no json\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(InputError, match=r"x\.jsonl:1"):
        find_overlap([path], "error", seen, CLEANER)
    assert find_overlap([path], "skip", seen, CLEANER).first == [f"{path}:2"]


def test_a_text_that_was_cut_is_found_by_its_pieces(tmp_path: Path) -> None:
    """Lines longer than a document may be: cut here as there, and counted as the one text that they are."""
    long = " ".join(f"word{number}" for number in range(900))
    rows(tmp_path, long, *(f"short {number}" for number in range(30)), name="own.jsonl", id="w")
    config = IngestConfig(sources=(f"jsonl:{tmp_path}/own.jsonl",), max_doc_bytes=500, test_fraction=0)
    kept = ingest(config, tmp_path / "out", workers=1)["cleaning"]["kept"]
    assert kept > 40
    settings = CLEANER | {"max_doc_bytes": 500}
    mine = rows(tmp_path, "new", long, name="mine.jsonl", id="w")
    overlap = find_overlap([mine], "error", tmp_path / "out" / SEEN, settings)
    assert (overlap.documents, overlap.found, overlap.first) == (2, 1, [f"{mine}:2 (id w)"])
    assert find_overlap([tmp_path / "own.jsonl"], "error", tmp_path / "out" / SEEN, settings).found == 31


def test_damaged_digests_are_named(tmp_path: Path) -> None:
    """No overlap is not what a broken file means."""
    (tmp_path / SEEN).write_bytes(b"ARROW1 no")
    with pytest.raises(ArtifactError, match=SEEN):
        find_overlap([rows(tmp_path, "a")], "error", tmp_path / SEEN, CLEANER)
