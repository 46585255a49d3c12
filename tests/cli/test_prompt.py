"""Where the text to go on from comes from."""

import io
from pathlib import Path
from types import SimpleNamespace

import pytest

from nano_think.cli.prompt import read_prompt
from nano_think.core.errors import InputError, UsageError

TEXT = "é\r\n\n  two lines\n"


def test_a_file_is_taken_as_it_is(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes(TEXT.encode())
    assert read_prompt(None, tmp_path / "a.txt") == TEXT


def test_standard_input_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(TEXT.encode())))
    assert read_prompt(None, Path("-")) == TEXT


@pytest.mark.parametrize("given", [("a", Path("b")), (None, None)], ids=["both", "neither"])
def test_it_comes_from_one_place(given):
    with pytest.raises(UsageError, match=r"--prompt.*--file"):
        read_prompt(*given)


def test_what_cannot_be_read_is_said(tmp_path: Path):
    (tmp_path / "b.txt").write_bytes(b"ab\xff")
    for path, why in [(tmp_path / "none", "No such file"), (tmp_path, "directory"), (tmp_path / "b.txt", "byte 2")]:
        with pytest.raises(InputError, match=why):
            read_prompt(None, path)
