"""What users and files call things never becomes the name of a file."""

import json
import re
from pathlib import Path

import pytest

from nano_think.core.errors import UsageError
from nano_think.data.ingest import IngestConfig, ingest
from nano_think.data.shards import read_documents
from nano_think.data.sources import SOURCES, groups, resolve
from nano_think.data.tokenizer import Tokenizer
from nano_think.data.tokens import write_tokens

HOSTILE = ["../../up", "/absolute", "CON", "a\\b", "x" * 300, "line\nend", "-rf", "~", "\u202egnp", "."]


@pytest.mark.parametrize("name", [*HOSTILE, "nul\0", ""])
def test_a_source_that_is_not_registered_is_refused(name: str) -> None:
    """A name is looked up, never used as a path."""
    with pytest.raises(UsageError) as caught:
        resolve((name,))
    assert caught.value.exit_code == 2


def test_registered_names_are_plain() -> None:
    """They stand in ids, tables and flags."""
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", name) for name in [*SOURCES, *groups()])


def test_hostile_rows_and_folders_stay_inside(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Ids, sources and domains from files are data: the files made have our names, and nothing is made elsewhere."""
    for folder in ("CON", "-rf", "\u202egnp", "x" * 250):
        place = tmp_path / "in" / folder
        place.mkdir(parents=True)
        rows = [{"text": f"{folder} {name}", "source": name, "id": name} for name in HOSTILE for _ in range(9)]
        (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "in" / "up.jsonl").write_text('{"text": "from above"}\n', encoding="utf-8")
    before = sorted(tmp_path.rglob("*"))
    folder = tmp_path / "out" / "documents"
    ingest(IngestConfig(sources=(f"jsonl:{tmp_path}/in/*/rows.jsonl", f"jsonl:{tmp_path}/in/CON/../up.jsonl")), folder)
    write_tokens(folder, tokenizer, tmp_path / "out" / "tokens")
    made = sorted(set(tmp_path.rglob("*")) - set(before))
    assert [path for path in made if not path.is_relative_to(tmp_path / "out")] == []
    files = [path.name for path in made if path.is_file()]
    assert files and all(re.fullmatch(r"[a-z]+(\.[a-z]+)*(-\d{5})?\.arrow", name) for name in files)
    found = [document for split in ("train", "router") for document in read_documents(folder, split)]
    assert {document.id for document in found} & set(HOSTILE)
