"""Small texts of a user's own, and a folder for temporary files that shows what is left in it."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nano_think.data import stand_ins

TEXTS = {
    "poems": [f"A verse, the {number}th of them." for number in range(60)],
    "code": [f"def f{number}():\n\treturn {number}\n" + "# more\n" * number for number in range(60)],
}


@pytest.fixture
def files(tmp_path: Path) -> str:
    """The spec of two files, a domain each."""
    for domain, texts in TEXTS.items():
        (tmp_path / "mine" / domain).mkdir(parents=True)
        rows = "".join(json.dumps({"text": text, "id": n}) + "\n" for n, text in enumerate(texts))
        (tmp_path / "mine" / domain / "rows.jsonl").write_text(rows, encoding="utf-8")
    return f"jsonl:{tmp_path}/mine/*/rows.jsonl"


@pytest.fixture(autouse=True)
def nothing_left(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a command does, and however it ends: no temporary file stays, and the folder it runs in stays empty."""
    temporary, here = tmp_path_factory.mktemp("temporary"), tmp_path_factory.mktemp("here")
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.chdir(here)
    stand_ins.reason.cache_clear()
    yield
    stand_ins.reason.cache_clear()
    assert list(temporary.iterdir()) == [] and list(here.iterdir()) == []
