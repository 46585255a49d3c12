"""Rows of JSON lines files, plain or gzip: streamed, in bounded memory, with errors that name file, line and column."""

import contextlib
import gzip
import io
import json
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from nano_think.core.errors import InputError
from nano_think.data.cutting import cut_bytes
from nano_think.data.long_row import BadRow, read_long_row
from nano_think.data.source import MAX_DOC_BYTES, BadLines

GZIP_MAGIC = b"\x1f\x8b"
UTF8_MARK = b"\xef\xbb\xbf"
MAX_NESTING = 64
JSON_NAMES = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
BLOCK_BYTES = 2**20
REMEDY = "mend the line, or pass --bad-lines skip"


def jsonl_rows(
    path: Path, bad_lines: BadLines = "error", *, max_bytes: int = MAX_DOC_BYTES, skipped: Counter[str] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, row) for every row of a .jsonl or .jsonl.gz file; blank lines are passed over.

    A row is an object whose "text" is a string; its "source" (string) and "id" (string or integer) may be missing.
    Of a line longer than `max_bytes` bytes these three alone are read, and its text comes in several rows, each of at
    most `max_bytes` bytes, with "piece" counting from 0. With `bad_lines="skip"` a line that is no such row is counted
    by its reason in `skipped` instead of raising. At most one line, or one piece, of `max_bytes` bytes is held.

    Raises `InputError` for a file that is missing, a folder, damaged, or without one usable row.
    """
    skipped = Counter() if skipped is None else skipped
    rows = 0
    for number, line in _lines_of(path, max_bytes):
        try:
            for row in [_row(line)] if isinstance(line, bytes) else _pieces(line, max_bytes):
                rows += 1
                yield number, row
        except BadRow as error:
            if bad_lines == "error":
                raise InputError(f"{path}:{number}: {error}; {_remedy(error)}") from None
            skipped[error.reason] += 1
    if not rows:
        left_out = f" ({skipped.total()} bad lines skipped)" if skipped.total() else ""
        raise InputError(f'no documents in {path}{left_out}; wanted lines like {{"text": "..."}}')


def jsonl_objects(path: Path, max_bytes: int = MAX_DOC_BYTES) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON lines file, whatever their keys; the first bad line is an `InputError`."""
    for number, line in _lines_of(path, max_bytes):
        try:
            if not isinstance(line, bytes):
                raise BadRow("too_long", f"longer than {max_bytes} bytes")
            yield _object(line)
        except BadRow as error:
            raise InputError(f"{path}:{number}: {error}; {_remedy(error)}") from None


def _lines_of(path: Path, max_bytes: int) -> Iterator[tuple[int, "bytes | Iterator[bytes]"]]:
    with opened(path) as file:
        yield from _lines(file, max_bytes)


def _remedy(error: BadRow) -> str:
    return "save the file as UTF-8, or pass --bad-lines skip" if error.reason == "not_utf8" else REMEDY


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a file, unpacked when they are gzip; what cannot be opened is an `InputError` that says why."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except IsADirectoryError:
        raise InputError(f"{path}: a folder; name the files in it: {path}/*") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the file and its permissions") from None
    with file:
        try:
            yield _unpacked(path, file)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            reason = "cut off" if isinstance(error, EOFError) else "damaged"
            raise InputError(f"{path}: the gzip data are {reason}; fetch the file again") from None
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); check the file and its disk") from None


def _unpacked(path: Path, file: io.BufferedReader) -> BinaryIO:
    head = file.peek(2)[:2]
    if head == GZIP_MAGIC:
        return io.BufferedReader(gzip.GzipFile(fileobj=file))
    if head and path.suffix == ".gz":
        raise InputError(f"{path}: not gzip data; rename it without .gz or compress it")
    return file


def _lines(file: BinaryIO, max_bytes: int) -> Iterator[tuple[int, "bytes | Iterator[bytes]"]]:
    """(number, line) for lines that are not blank; one over `max_bytes` comes as its blocks, to be read at once."""
    number = 0
    while line := file.readline(max_bytes + 1):
        number += 1
        if number == 1:
            line = line.removeprefix(UTF8_MARK)
        if len(line) > max_bytes and not line.endswith(b"\n"):
            blocks = _blocks(line, file)
            yield number, blocks
            for _ in blocks:
                pass
        elif not line.isspace() and line:
            yield number, line


def _blocks(head: bytes, file: BinaryIO) -> Iterator[bytes]:
    block = head
    while True:
        yield block
        if block.endswith(b"\n") or not (block := file.readline(BLOCK_BYTES)):
            return


def _pieces(blocks: Iterator[bytes], max_bytes: int) -> Iterator[dict[str, Any]]:
    """A long row: put down as a file first, so that nothing of a row is used unless all of it can be."""
    with tempfile.TemporaryFile() as text:
        about = read_long_row(blocks, ("source", "id"), text)
        text.seek(0)
        for number, piece in enumerate(cut_bytes(text, max_bytes)):
            yield about | {"text": piece.decode(), "piece": number}


def _row(line: bytes) -> dict[str, Any]:
    row = _object(line)
    if "text" not in row:
        keys = ", ".join(sorted(row)[:8]) or "none"
        raise BadRow("no_text", f'no "text" (its keys: {keys})')
    for key, kinds in (("text", (str,)), ("source", (str, type(None))), ("id", (str, int, type(None)))):
        value = row.get(key)
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise BadRow("wrong_type", f'"{key}" is {_json_name(value)}, wanted a string')
        if isinstance(value, str):
            _check_characters(key, value)
    return row


def _object(line: bytes) -> dict[str, Any]:
    row = _parsed(line)
    if not isinstance(row, dict):
        raise BadRow("not_an_object", f'wanted an object like {{"text": "..."}}, got {_json_name(row)}')
    return row


def _parsed(line: bytes) -> Any:
    try:
        value = _DECODER.decode(line.rstrip(b"\r\n").decode())
        _check_nesting(value)
        return value
    except UnicodeDecodeError as error:
        what = f"byte 0x{line[error.start]:02x} at column {error.start + 1} is not UTF-8"
        raise BadRow("not_utf8", what) from None
    except json.JSONDecodeError as error:
        raise BadRow("not_json", f"not JSON at column {error.colno} ({error.msg})") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:  # an integer of thousands of digits
        raise BadRow("not_json", f"not usable JSON ({error})") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise BadRow("repeated_key", f'the key "{twice}" stands twice in one object')
    return row


def _no_number(name: str) -> NoReturn:
    raise BadRow("not_json", f"{name} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_number)


def _check_nesting(value: Any) -> None:
    """Level by level, without recursion: a row of plain values costs one look."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_NESTING + 1):
        containers = [item.values() if isinstance(item, dict) else item for item in level]
        level = [item for container in containers for item in container if isinstance(item, dict | list)]
        if not level:
            return
    raise _too_deep()


def _too_deep() -> BadRow:
    return BadRow("too_deep", f"nested deeper than {MAX_NESTING} levels")


def _check_characters(key: str, value: str) -> None:
    if "\x00" in value:
        raise BadRow("nul", f'"{key}" holds a NUL (\\u0000) at character {value.index(chr(0)) + 1}')
    try:
        value.encode()
    except UnicodeEncodeError as error:
        what = f"half a surrogate pair (\\u{ord(value[error.start]):04x}) at character {error.start + 1}"
        raise BadRow("surrogate", f'"{key}" holds {what}') from None


def _json_name(value: Any) -> str:
    return JSON_NAMES.get(type(value), "a number")
