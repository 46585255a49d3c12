"""A log of records that is only ever appended to, and in which nothing is lost without a word.

A record is the length of its payload, the crc32 of its payload, the crc32 of these eight bytes (three little-endian
32-bit numbers), the payload, and one byte that is not 0. What a killed writer or a power cut leaves at the end (a part
of a record, or zeros where it should be) was never acknowledged and can be told from damage: a record that is whole but
for its checksums.
"""

import contextlib
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from nano_think.core.errors import ArtifactError, StorageError, storage

HEAD, END = struct.Struct("<III"), b"\xa5"
ZEROS_READ = 2**20


def pack(payload: bytes) -> bytes:
    """The record of a payload."""
    sizes = struct.pack("<II", len(payload), zlib.crc32(payload))
    return b"".join([sizes, struct.pack("<I", zlib.crc32(sizes)), payload, END])


def read_records(file: BinaryIO, path: Path) -> Iterator[tuple[int, bytes]]:
    """The payload of each whole record from where the file stands, with the byte at which its record ends.

    Stops before a torn tail; `ArtifactError` names the byte of a record that is damaged.
    """
    size, at = os.fstat(file.fileno()).st_size, file.tell()
    while size - at >= HEAD.size:
        head = file.read(HEAD.size)
        length, wanted, check = HEAD.unpack(head)
        if zlib.crc32(head[:8]) != check:
            if head[-1] or not _only_zeros(file):
                raise _damaged(path, at)
            return
        end = at + HEAD.size + length + len(END)
        if end > size:
            return
        payload, last = file.read(length), file.read(len(END))
        if zlib.crc32(payload) != wanted or last != END:
            if last == b"\0" and _only_zeros(file):
                return
            raise _damaged(path, at)
        yield end, payload
        at = end


def _only_zeros(file: BinaryIO) -> bool:
    return not any(any(block) for block in iter(lambda: file.read(ZEROS_READ), b""))


def _damaged(path: Path, at: int) -> ArtifactError:
    remedy = "put back a copy of the file, or erase the namespace with: nano-think memory forget --all --namespace"
    return ArtifactError(f"{path}: the record at byte {at} is damaged; {remedy} {path.parent.name}")


class LogWriter:
    """Appends records to the log `path`, which exists; what is behind byte `end`, a torn tail, is cut off."""

    def __init__(self, path: Path, end: int):
        self._path, self._end, self._broken = path, end, False
        with storage(path):
            self._file = os.open(path, os.O_WRONLY)
            self._cut()

    def append(self, payload: bytes) -> None:
        """When this returns the record is on the disk. If it cannot be, nothing of it stays, and `StorageError` says
        why.
        """
        if self._broken:
            raise StorageError(f"{self._path}: an earlier record could be neither written nor taken back; open it anew")
        with storage(self._path):
            end = self._end
            try:
                self._write(pack(payload))
            except BaseException:
                # Ctrl-C too: a part of a record in the middle of the log would be damage.
                self._broken, self._end = True, end
                with contextlib.suppress(OSError):
                    self._cut()
                    self._broken = False
                raise

    def _write(self, record: bytes) -> None:
        left = memoryview(record)
        while left:
            left = left[os.write(self._file, left) :]
        os.fsync(self._file)
        self._end += len(record)

    def _cut(self) -> None:
        os.ftruncate(self._file, self._end)
        os.lseek(self._file, self._end, os.SEEK_SET)
        os.fsync(self._file)

    def close(self) -> None:
        os.close(self._file)
