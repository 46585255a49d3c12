"""One JSON object whose text is too long to hold: read block by block, its text put down in a file.

Only what a row of text needs is understood: strings, and other values as far as to pass over them.
"""

import json
import re
from collections.abc import Iterable
from typing import Any, BinaryIO

# Whole units of a JSON string: a match ends before the closing quote, and before a unit that is cut off or wrong.
_CONTENT = re.compile(
    rb"(?:[\x20\x21\x23-\x5b\x5d-\x7f]++|\\[\"\\/bfnrt]|\\u(?![dD][89a-fA-F])[0-9a-fA-F]{4}"
    rb"|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]|\xed[\x80-\x9f][\x80-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]{2}"
    rb"|\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}|\xf4[\x80-\x8f][\x80-\xbf]{2})*+"
)
_LONGEST_UNIT = 12
_SPACE = re.compile(rb"[ \t\r\n]*+")
_PLAIN = re.compile(rb"[^\s\"\[\]{},:]++")
# Keys, and the values that are kept, are names; longer ones are no rows of text.
_MAX_NAME = 2**16
_MAX_NESTING = 64


class BadRow(Exception):
    """A row that cannot be used: the reason that it is counted by, and what is wrong with it."""

    def __init__(self, reason: str, what: str):
        super().__init__(what)
        self.reason = reason


def read_long_row(blocks: Iterable[bytes], keep: tuple[str, ...], text: BinaryIO) -> dict[str, Any]:
    """Read one object from the blocks of its line: the value of "text" goes to `text` as UTF-8, those of `keep` are
    returned. Values of other keys are passed over. Raises `BadRow`.
    """
    return _Reader(blocks).row(keep, text)


class _Reader:
    def __init__(self, blocks: Iterable[bytes]):
        self._blocks = iter(blocks)
        self._held, self._at, self._before = b"", 0, 0

    def row(self, keep: tuple[str, ...], text: BinaryIO) -> dict[str, Any]:
        if (first := self._next()) != b"{":
            what = 'wanted an object like {"text": "..."}'
            raise BadRow("not_an_object", what) if first and first in b'["-0123456789tfn' else self._wrong(what)
        self._at += 1
        found: dict[str, Any] = {}
        while True:
            key = self._name()
            if key in found:
                raise BadRow("repeated_key", f'the key "{key}" stands twice in one object')
            self._sign(b":", "wanted ':'")
            found[key] = self._value(key, keep, text)
            if self._sign(b",}", "wanted ',' or '}'") == b"}":
                break
        if self._next():
            raise self._wrong("Extra data")
        if "text" not in found:
            raise BadRow("no_text", f'no "text" (its keys: {", ".join(sorted(found)[:8])})')
        return {name: found[name] for name in keep if name in found}

    def _value(self, key: str, keep: tuple[str, ...], text: BinaryIO) -> Any:
        first = self._next()
        if key == "text":
            if first != b'"':
                raise BadRow("wrong_type", '"text" is no string, wanted a string')
            self._string(text.write)
            return None
        if key not in keep:
            self._pass_over()
            return None
        if first == b'"':
            return self._name()
        return self._plain(key)

    def _plain(self, key: str) -> Any:
        """A value without quotes or brackets; what ends it is in what is held, because it is short."""
        self._fill(_MAX_NAME)
        match = _PLAIN.match(self._held, self._at)
        try:
            value = json.loads(match[0]) if match else None
        except ValueError:
            raise self._wrong("Expecting value") from None
        if not match or not isinstance(value, int | None) or isinstance(value, bool):
            raise BadRow("wrong_type", f'"{key}" is neither a string nor a whole number')
        self._at = match.end()
        return value

    def _pass_over(self) -> None:
        depth = 0
        while True:
            sign = self._next()
            if sign == b'"':
                self._string(lambda _: None)
            elif sign in (b"{", b"["):
                depth += 1
                self._at += 1
            elif depth and sign in (b"}", b"]", b",", b":"):
                depth -= sign in (b"}", b"]")
                self._at += 1
            else:
                self._fill(_MAX_NAME)
                match = _PLAIN.match(self._held, self._at)
                if not match:
                    raise self._wrong("Expecting value")
                self._at = match.end()
            if depth > _MAX_NESTING:
                raise BadRow("too_deep", f"nested deeper than {_MAX_NESTING} levels")
            if not depth:
                return

    def _name(self) -> str:
        parts: list[bytes] = []

        def write(part: bytes) -> None:
            parts.append(part)
            if sum(map(len, parts)) > _MAX_NAME:
                raise self._wrong(f"a key or an id is longer than {_MAX_NAME} bytes")

        self._string(write)
        return b"".join(parts).decode()

    def _string(self, write: Any) -> None:
        """Hand a string's UTF-8 to `write`, part by part."""
        self._sign(b'"', "wanted '\"'")
        while True:
            self._fill(_LONGEST_UNIT)
            match = _CONTENT.match(self._held, self._at)
            assert match
            if match[0]:
                value = json.loads(b'"' + match[0] + b'"')
                if "\0" in value:
                    raise BadRow("nul", "it holds a NUL (\\u0000)")
                write(value.encode())
                self._at = match.end()
            if self._held[self._at : self._at + 1] == b'"':
                self._at += 1
                return
            if not match[0]:
                raise self._wrong_in_string()

    def _wrong_in_string(self) -> BadRow:
        ahead = self._held[self._at : self._at + _LONGEST_UNIT]
        if not ahead:
            return self._wrong("Unterminated string")
        if ahead[:1] >= b"\x80":
            place = f"byte 0x{ahead[0]:02x} at column {self._before + self._at + 1}"
            return BadRow("not_utf8", f"{place} is not UTF-8")
        if re.match(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}", ahead):
            return BadRow("surrogate", f"it holds half a surrogate pair ({ahead[:6].decode()})")
        return self._wrong("Invalid control character" if ahead[:1] < b" " else "Invalid escape")

    def _sign(self, wanted: bytes, message: str) -> bytes:
        """Pass over white space and one of the bytes `wanted`, and return it."""
        sign = self._next()
        if not sign or sign not in wanted:
            raise self._wrong(message)
        self._at += 1
        return sign

    def _next(self) -> bytes:
        """The next byte that is no white space, still to be read; empty at the end."""
        while True:
            self._fill(1)
            match = _SPACE.match(self._held, self._at)
            assert match
            self._at = match.end()
            if self._at < len(self._held) or not self._fill(1):
                return self._held[self._at : self._at + 1]

    def _fill(self, wanted: int) -> bool:
        """Hold at least `wanted` bytes ahead, as long as there are any; whether there is one."""
        while len(self._held) - self._at < wanted and (block := next(self._blocks, b"")):
            self._before += self._at
            self._held, self._at = self._held[self._at :] + block, 0
        return self._at < len(self._held)

    def _wrong(self, what: str) -> BadRow:
        return BadRow("not_json", f"not JSON at column {self._before + self._at + 1} ({what})")
