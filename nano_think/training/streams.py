"""What frozen experts make of a text, computed once and kept on disk: a router's training reads it back.

Rows are written as plain files: a disk that is full is then an error that can be answered, and not the end of the
process. They are read where the system keeps the file in memory, without a copy, but only as far as the file goes.

B windows in a batch, T tokens
"""

import hashlib
import io
import mmap
import os
import shutil
import time
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nano_think.core.errors import ArtifactError
from nano_think.core.files import read_json, write_json
from nano_think.data.loader import Batches
from nano_think.training.estimate import format_bytes

ROWS, MARKS, ABOUT = "rows.bin", "marks.bin", "about.json"
# A row is worth its writing if it is read again at least so often on average.
LEAST_REPEATS = 0.1
# With logits a row has some twenty times the bytes, and its writing costs as much as a part of the experts does.
LEAST_REPEATS_OF_LOGITS = 0.9
# Of what is free on the disk, for checkpoints and others need some too.
SHARE_OF_FREE = 0.5


@dataclass
class Tally:
    """What a cache did in this process."""

    computed: int = 0
    """Windows that the experts were computed for and that were written."""
    read: int = 0
    """Windows that were read back."""
    seconds: dict[str, float] = field(default_factory=lambda: {"write": 0.0, "read": 0.0})


class WindowCache:
    """Tensors by window, a row of bytes for each, found by the window's own tokens.

    `keep` writes the parts of a batch, (B, ...) each; `fetch` gives back what it wrote, bit for bit, or None if a
    window is not there. A row has a mark, written after it: the sum of its 64-bit words and 1. A row that a crash
    cut off does not have its sum and is not there; it is checked when this process reads it first. Several processes
    may share a folder.
    """

    def __init__(self, folder: Path, windows: Iterable[np.ndarray], parts: Sequence[Tensor], about: dict[str, Any]):
        """parts: what a batch gives, for the shapes and types. about: what the rows depend on beside the windows;
        whatever was made of something else is dropped.
        """
        keys = [_key(window) for window in windows]
        self.rows = {key: row for row, key in enumerate(dict.fromkeys(keys))}
        self.parts = [(part.shape[1:], part.dtype) for part in parts]
        self.row_bytes, self.folder, self.tally, self.closed = bytes_per_window(parts), folder, Tally(), ""
        self.view: mmap.mmap | None = None
        self.whole: set[int] = set()
        about = about | {
            "parts": [[list(shape), str(dtype)] for shape, dtype in self.parts],
            "windows": hashlib.blake2b(b"".join(keys), digest_size=16).hexdigest(),
        }
        self._open(about)

    def _open(self, about: dict[str, Any]) -> None:
        try:
            there = read_json(self.folder / ABOUT) == about
        except ArtifactError:
            there = False
        if not there:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            (self.folder / ROWS).touch()
            (self.folder / MARKS).write_bytes(bytes(8 * len(self.rows)))
            write_json(self.folder / ABOUT, about)
        self.files = [(self.folder / name).open("r+b", buffering=0) for name in (ROWS, MARKS)]
        for file in self.files:
            weakref.finalize(self, file.close)

    @torch.no_grad()
    def keep(self, tokens_BT1: Tensor, parts: Sequence[Tensor]) -> None:
        """Write what the windows gave. Where the disk refuses, nothing is kept from now on, and `closed` says why."""
        started = time.monotonic()
        try:
            for key, *values in zip(_keys(tokens_BT1), *(part.cpu() for part in parts), strict=True):
                if key in self.rows and not self.closed:
                    self._write(self.rows[key], values)
                    self.tally.computed += 1
        except OSError as error:
            self.close(f"the disk refused ({error.strerror})")
        self.tally.seconds["write"] += time.monotonic() - started

    def _write(self, row: int, values: Sequence[Tensor]) -> None:
        rows, marks = self.files
        total = np.zeros(1, dtype=np.uint64)
        for place, value in zip(self._places(), values, strict=True):
            content = _as_bytes(value.contiguous())
            total += _sum(content)
            _write_at(rows, row * self.row_bytes + place.start, content)
        _write_at(marks, 8 * row, _as_mark(total))

    def fetch(self, tokens_BT1: Tensor) -> list[list[Tensor]] | None:
        """Of each part, what `keep` was given for each of these windows, on the CPU and to be read only; None if one of
        the windows is not there.
        """
        started, rows = time.monotonic(), [self.rows.get(key) for key in _keys(tokens_BT1)]
        if self.closed:
            return None
        try:
            values = [None if row is None else self._read(row) for row in rows]
        except OSError as error:
            self.close(f"the disk refused ({error.strerror})")
            return None
        found = [value for value in values if value is not None]
        if len(found) < len(rows):
            return None
        self.tally.read += len(rows)
        self.tally.seconds["read"] += time.monotonic() - started
        return [list(part) for part in zip(*found, strict=True)]

    def _read(self, row: int) -> list[Tensor] | None:
        """A row's parts where they lie, or None if it is not there as a whole."""
        begin, end = row * self.row_bytes, row * self.row_bytes + self._places()[-1].stop
        if os.fstat(self.files[0].fileno()).st_size < end:
            return None
        if self.view is None or len(self.view) < end:
            # Of one's own, should anyone write to it: no tensor says that it may only be read.
            self.view = mmap.mmap(self.files[0].fileno(), 0, access=mmap.ACCESS_COPY)
        values = [
            torch.frombuffer(self.view, dtype=dtype, count=shape.numel(), offset=begin + place.start).view(shape)
            for place, (shape, dtype) in zip(self._places(), self.parts, strict=True)
        ]
        return values if row in self.whole or self._check(row, values) else None

    def _check(self, row: int, values: Sequence[Tensor]) -> bool:
        """Whether the row has its mark."""
        mark, marks = np.zeros(1, dtype=np.uint64), self.files[1]
        marks.seek(8 * row)
        # Without a mark there is nothing to read.
        if marks.readinto(mark.data.cast("B")) != 8 or not mark[0]:
            return False
        total = sum((_sum(_as_bytes(value)) for value in values), np.zeros(1, dtype=np.uint64))
        if _as_mark(total)[0] == mark[0]:
            self.whole.add(row)
        return row in self.whole

    def _places(self) -> list[slice]:
        """Where each part stands in a row, from a multiple of 8 bytes on."""
        places, at = [], 0
        for shape, dtype in self.parts:
            places.append(slice(at, at + shape.numel() * dtype.itemsize))
            at += _padded(shape, dtype)
        return places

    def close(self, why: str = "") -> None:
        """Give the disk back."""
        self.closed, self.view = why or "it is no longer needed", None
        for file in self.files:
            file.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _write_at(file: io.FileIO, at: int, content: np.ndarray) -> None:
    file.seek(at)
    view = content.data.cast("B")
    while view:
        view = view[file.write(view) :]


def _keys(tokens_BT1: Tensor) -> list[bytes]:
    return [_key(window) for window in tokens_BT1.cpu().numpy()]


def _key(window: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(window).data, digest_size=16).digest()


def _as_bytes(value: Tensor) -> np.ndarray:
    """The memory of a contiguous tensor, which writing changes."""
    return value.view(-1).view(torch.uint8).numpy()


def _sum(content: np.ndarray) -> np.ndarray:
    """The sum of the 64-bit words, (1,), the last filled up with zeros."""
    whole = len(content) // 8 * 8
    total = np.add.reduce(content[:whole].view(np.uint64), keepdims=True)
    if whole < len(content):
        total += np.pad(content[whole:], (0, 8 - len(content) + whole)).view(np.uint64)
    return total


def _as_mark(total: np.ndarray) -> np.ndarray:
    """The sum and 1: never 0, which stands for a row that is not there."""
    return np.maximum(total + np.uint64(1), np.uint64(1))


def _padded(shape: torch.Size, dtype: torch.dtype) -> int:
    return -(-shape.numel() * dtype.itemsize // 8) * 8


def bytes_per_window(parts: Sequence[Tensor]) -> int:
    """Bytes of a row that holds what one window gives."""
    return sum(_padded(part.shape[1:], part.dtype) for part in parts)


def why_not(
    windows: Batches, steps: int, row_bytes: int, most_bytes: int, folder: Path, least: float = LEAST_REPEATS
) -> str | None:
    """The reason to compute the experts at every step, or None where keeping what they gave in this folder is worth it.

    Writing a window's hiddens costs a few per cent of computing them, so that keeping pays as soon as a tenth of the
    windows come again (`least`). It is refused where all windows need more than `most_bytes` or half of what is free on
    the disk or filled by the folder itself: a training that goes on decides as it did when it began.
    """
    drawn, repeats = steps * windows.batch_size, windows.repeats(steps)
    distinct = drawn - repeats
    if repeats < least * distinct:
        return f"only {repeats:,} of {drawn:,} windows come a second time"
    there = (folder / ROWS).stat().st_blocks * 512 if (folder / ROWS).exists() else 0
    needed, free = distinct * row_bytes, SHARE_OF_FREE * (shutil.disk_usage(folder.parent).free + there)
    if needed > most_bytes:
        return f"it would need {format_bytes(needed)}, and {format_bytes(most_bytes)} are allowed (cache_bytes)"
    if needed > free:
        return f"it would need {format_bytes(needed)}, and half of what is free on the disk is {format_bytes(free)}"
    return None


def digest_of(*modules: nn.Module) -> str:
    """The sha256 of all parameters and buffers."""
    found = hashlib.sha256()
    for module in modules:
        for name, value in sorted(module.state_dict().items()):
            found.update(name.encode())
            found.update(_as_bytes(value.detach().cpu().contiguous()).data)
    return found.hexdigest()
