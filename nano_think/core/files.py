"""Files that are whole or not there: write aside, flush to the disk, rename; and the digests that prove it later."""

import contextlib
import hashlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

from nano_think.core.errors import ArtifactError, LockedError, storage


def sha256(path: Path) -> str:
    """The hexadecimal sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical(value: Any) -> str:
    """JSON that is equal for equal values: sorted keys, no spaces. What digests are taken of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: Any) -> str:
    """The hexadecimal sha256 of a JSON-like value."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def sync(path: Path) -> None:
    """Make what `path` (a file or a folder) holds survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well it is flushed and takes the name `path`.

    After a crash at any moment `path` is the old file or the new one, never a part. (A rename without the two fsyncs
    leaves files of zeros after a power cut.)
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with storage(path):
            yield temporary
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The value in one of our own JSON files; `ArtifactError` when it is missing or torn."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path}: missing; run the pipeline again to make it") from None
    except (ValueError, OSError) as error:
        raise ArtifactError(f"{path}: not readable as JSON ({error}); remove it and run again") from None


@contextlib.contextmanager
def lock(path: Path, what: str, wait: float = 0.0) -> Iterator[None]:
    """Hold the exclusive lock `path` for the block; after `wait` seconds without it, `LockedError` names the holder.

    The kernel drops the lock when its holder dies, however it dies, so a stale lock cannot exist.
    """
    note = path.with_suffix(".holder")
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        held = filelock.FileLock(path)
        try:
            held.acquire(timeout=wait)
        except filelock.Timeout:
            holder = note.read_text(encoding="utf-8") if note.exists() else "another process"
            raise LockedError(f"{what}: in use by {holder}; wait for it to end or choose another --root") from None
    try:
        note.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        held.release()
