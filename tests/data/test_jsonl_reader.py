"""Every bad input is one clear line that names the file and the line, and can be skipped and counted instead."""

import gzip
import hashlib
import io
import json
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nano_think.core.errors import InputError
from nano_think.data.jsonl_reader import jsonl_rows
from nano_think.data.long_row import read_long_row

Write = Callable[..., Path]
GOOD = b'{"text": "good", "source": "s", "id": 7}\n'
MEND = "mend the line, or pass --bad-lines skip"

BAD_LINES = {
    "latin-1": (b'{"text": "caf\xe9"}', "not_utf8", "byte 0xe9 at column 14 is not UTF-8; save the file as UTF-8"),
    "utf-16": ('{"text": "a"}'.encode("utf-16"), "not_utf8", "byte 0xff at column 1 is not UTF-8"),
    "cut off": (b'{"text": "a', "not_json", f"not JSON at column 10 (Unterminated string starting at); {MEND}"),
    "trailing": (b'{"text": "a"} x', "not_json", f"not JSON at column 15 (Extra data); {MEND}"),
    "NaN": (b'{"text": "a", "n": NaN}', "not_json", f"NaN is not JSON; {MEND}"),
    "huge number": (b'{"text": "a", "n": ' + b"9" * 5000 + b"}", "not_json", "not usable JSON (Exceeds the limit"),
    "raw NUL": (b'{"text": "a\x00"}', "not_json", "not JSON at column 12 (Invalid control character at)"),
    "NUL": (b'{"text": "ab\\u0000"}', "nul", f'"text" holds a NUL (\\u0000) at character 3; {MEND}'),
    "surrogate": (
        b'{"text": "ab\\ud83d"}',
        "surrogate",
        f'"text" holds half a surrogate pair (\\ud83d) at character 3; {MEND}',
    ),
    "array": (b'["a", "b"]', "not_an_object", f'wanted an object like {{"text": "..."}}, got an array; {MEND}'),
    "number": (b"42", "not_an_object", f'wanted an object like {{"text": "..."}}, got a number; {MEND}'),
    "no text": (b'{"content": "a", "id": 1}', "no_text", f'no "text" (its keys: content, id); {MEND}'),
    "null text": (b'{"text": null}', "wrong_type", f'"text" is null, wanted a string; {MEND}'),
    "number text": (b'{"text": 3.5}', "wrong_type", f'"text" is a number, wanted a string; {MEND}'),
    "list text": (b'{"text": ["a"]}', "wrong_type", f'"text" is an array, wanted a string; {MEND}'),
    "id of a bool": (b'{"text": "a", "id": true}', "wrong_type", f'"id" is a boolean, wanted a string; {MEND}'),
    "source": (b'{"text": "a", "source": {}}', "wrong_type", f'"source" is an object, wanted a string; {MEND}'),
    "twice": (b'{"text": "a", "text": "b"}', "repeated_key", f'the key "text" stands twice in one object; {MEND}'),
    "deep": (b'{"text": "a", "x": ' + b"[" * 65 + b"]" * 65 + b"}", "too_deep", "nested deeper than 64 levels"),
    "very deep": (b"[" * 50_000 + b"]" * 50_000, "too_deep", f"nested deeper than 64 levels; {MEND}"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_named_or_skipped(name: str, write: Write) -> None:
    line, reason, message = BAD_LINES[name]
    path = write("f.jsonl", GOOD + line + b"\n" + GOOD)
    with pytest.raises(InputError) as caught:
        list(jsonl_rows(path))
    assert caught.value.exit_code == 3
    assert str(caught.value).startswith(f"{path}:2: {message}")
    assert "\n" not in str(caught.value)

    skipped: Counter[str] = Counter()
    assert [number for number, _ in jsonl_rows(path, "skip", skipped=skipped)] == [1, 3]
    assert skipped == {reason: 1}


PACKED = gzip.compress(GOOD * 5000, mtime=0)
BAD_FILES = {
    "empty": ("f.jsonl", b"", 'no documents in PATH; wanted lines like {"text": "..."}'),
    "blank lines": ("f.jsonl", b"\n  \n\t\n", 'no documents in PATH; wanted lines like {"text": "..."}'),
    "only a mark": ("f.jsonl", b"\xef\xbb\xbf", 'no documents in PATH; wanted lines like {"text": "..."}'),
    "empty gzip": ("f.jsonl.gz", gzip.compress(b""), 'no documents in PATH; wanted lines like {"text": "..."}'),
    "cut gzip": ("f.jsonl.gz", PACKED[: len(PACKED) // 2], "PATH: the gzip data are cut off; fetch the file again"),
    "cut in the head": ("f.jsonl.gz", PACKED[:5], "PATH: the gzip data are cut off; fetch the file again"),
    "damaged gzip": (
        "f.jsonl.gz",
        PACKED[:40] + b"\xff" * 20 + PACKED[60:],
        "PATH: the gzip data are damaged; fetch the file again",
    ),
    "wrong checksum": (
        "f.jsonl.gz",
        PACKED[:-8] + b"\0" * 8,
        "PATH: the gzip data are damaged; fetch the file again",
    ),
    "no gzip": ("f.jsonl.gz", GOOD, "PATH: not gzip data; rename it without .gz or compress it"),
}


@pytest.mark.parametrize("name", BAD_FILES)
@pytest.mark.parametrize("bad_lines", ["error", "skip"])
def test_a_bad_file_is_named(name: str, bad_lines: str, write: Write) -> None:
    file_name, content, message = BAD_FILES[name]
    path = write(file_name, content)
    with pytest.raises(InputError) as caught:
        list(jsonl_rows(path, bad_lines))
    assert str(caught.value) == message.replace("PATH", str(path))


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.jsonl: no such file; check the path"):
        list(jsonl_rows(tmp_path / "gone.jsonl"))
    with pytest.raises(InputError, match=r"a folder; name the files in it"):
        list(jsonl_rows(tmp_path))


def test_a_file_of_bad_lines_alone_has_no_documents(write: Write) -> None:
    path = write("f.jsonl", b"x\ny\n")
    with pytest.raises(InputError, match=r"no documents in .*f\.jsonl \(2 bad lines skipped\)"):
        list(jsonl_rows(path, "skip"))


def test_plain_gzip_and_marked_files_read_alike(write: Write) -> None:
    content = GOOD + b"\r\n" + '{"text": "\u4f60\u597d \\ud83d\\ude00"}'.encode()
    expected = [(1, {"text": "good", "source": "s", "id": 7}), (3, {"text": "\u4f60\u597d \U0001f600"})]
    for name, data in (
        ("a.jsonl", content),
        ("b.jsonl", b"\xef\xbb\xbf" + content),
        ("c.jsonl.gz", gzip.compress(content)),
        ("d.jsonl", gzip.compress(content)),
    ):
        assert list(jsonl_rows(write(name, data))) == expected, name


@pytest.mark.parametrize("packed", [False, True])
def test_a_long_line_comes_in_pieces_and_is_never_held(packed: bool, write: Write) -> None:
    """A line of 20 MB costs no more memory than a few pieces of its text."""
    text = b"a word or two, and a \\u00e9\\n" * 800_000
    content = GOOD + b'{"id": 3, "text": "' + text + b'", "more": [1, {"x": "' + text[:3_000_000] + b'"}]}\n' + GOOD
    path = write("f.jsonl", gzip.compress(content, 1) if packed else content)
    expected = text.decode().replace("\\u00e9", "\u00e9").replace("\\n", "\n")
    hashed, whole, pieces = hashlib.sha256(), hashlib.sha256(expected.encode()), 0
    del content, text, expected
    tracemalloc.start()
    try:
        for number, row in jsonl_rows(path, max_bytes=1_000_000):
            if number == 2:
                assert (row["piece"], row["id"]) == (pieces, 3)
                pieces += 1
                assert len(row["text"].encode()) <= 1_000_000
                hashed.update(row["text"].encode())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert pieces > 15
    assert hashed.digest() == whole.digest()
    assert peak < 12_000_000


LONG = b"long enough to be read in blocks; " * 40
BAD_LONG = {
    "not UTF-8": (LONG + b"\xe9" + LONG, "not_utf8", "byte 0xe9 at column 1371 is not UTF-8; save the file as UTF-8"),
    "surrogate": (LONG + b"\\ud83d" + LONG, "surrogate", "it holds half a surrogate pair"),
    "raw surrogate": (LONG + b"\xed\xa0\xbd" + LONG, "not_utf8", "byte 0xed at column 1371 is not UTF-8"),
    "escape": (LONG + b"\\x" + LONG, "not_json", "not JSON at column 1371 (Invalid escape)"),
    "control": (LONG + b"\x01" + LONG, "not_json", "not JSON at column 1371 (Invalid control character)"),
    "nul": (LONG + b"\\u0000" + LONG, "nul", "it holds a NUL"),
}


@pytest.mark.parametrize("name", BAD_LONG)
def test_a_bad_long_line_is_named_or_skipped_whole(name: str, write: Write) -> None:
    text, reason, message = BAD_LONG[name]
    path = write("f.jsonl", GOOD + b'{"text": "' + text + b'"}\n' + GOOD)
    with pytest.raises(InputError) as caught:
        list(jsonl_rows(path, max_bytes=100))
    assert str(caught.value).startswith(f"{path}:2: {message}")
    skipped: Counter[str] = Counter()
    assert [number for number, _ in jsonl_rows(path, "skip", max_bytes=100, skipped=skipped)] == [1, 3]
    assert skipped == {reason: 1}


@pytest.mark.parametrize(
    "name",
    [name for name in BAD_LINES if name not in ("latin-1", "utf-16", "raw NUL", "huge number", "NaN", "very deep")],
)
def test_a_bad_line_is_counted_alike_when_it_is_long(name: str, write: Write) -> None:
    """The reader of long rows gives a bad one the same reason as the reader of others."""
    line, reason, _ = BAD_LINES[name]
    path = write("f.jsonl", GOOD + line + b"\n" + GOOD)
    skipped: Counter[str] = Counter()
    assert [number for number, _ in jsonl_rows(path, "skip", max_bytes=8, skipped=skipped) if number == 2] == []
    assert skipped == {reason: 1}


@given(st.text(max_size=60), st.integers(4, 40), st.booleans())
def test_a_row_is_the_same_read_long_or_short(text: str, size: int, ascii_only: bool) -> None:
    text = text.replace("\0", "")
    row = {"x": [1, {"text": "no"}, None, 's\\"'], "text": text, "id": 7, "source": "a\u00e9"}
    line = json.dumps(row, ensure_ascii=ascii_only).encode()
    blocks = (line[start : start + size] for start in range(0, len(line), size))
    spool = io.BytesIO()
    assert read_long_row(blocks, ("source", "id"), spool) == {"source": "a\u00e9", "id": 7}
    assert spool.getvalue().decode() == text
