"""Files that are whole or not there, and the lock on a folder."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nano_think.core.errors import ArtifactError, LockedError, StorageError, storage
from nano_think.core.files import canonical, digest, lock, read_json, replacing, sha256, write_json, write_text


def test_order_is_write_flush_rename_flush_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A rename before the flush leaves a file of zeros after a power cut; without the second it may be forgotten."""
    calls = []
    fsync, replace, target = os.fsync, os.replace, tmp_path / "file"

    def watch_fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        calls.append(("fsync", "folder" if path == tmp_path else path.read_text()))
        fsync(descriptor)

    def watch_replace(self: Path, other: Path) -> None:
        calls.append(("rename", other.name, target.read_text()))
        replace(self, other)

    target.write_text("old")
    monkeypatch.setattr(os, "fsync", watch_fsync)
    monkeypatch.setattr(Path, "replace", watch_replace)
    write_text(target, "new")
    assert calls == [("fsync", "new"), ("rename", "file", "old"), ("fsync", "folder")]
    assert target.read_text() == "new" and [*tmp_path.iterdir()] == [target]


@pytest.mark.parametrize("where", ["block", "flush", "rename"])
def test_a_failure_leaves_the_old_file_and_nothing_else(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    target = tmp_path / "file"
    target.write_text("old")

    def fail(*args) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if where == "flush":
        monkeypatch.setattr(os, "fsync", fail)
    if where == "rename":
        monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(StorageError, match="no space left"):  # noqa: PT012, SIM117
        with replacing(target) as temporary:
            temporary.write_text("new")
            if where == "block":
                fail()
    assert target.read_text() == "old" and [*tmp_path.iterdir()] == [target]


@pytest.mark.parametrize(
    ("number", "message"),
    [(errno.ENOSPC, "no space left"), (errno.EDQUOT, "no space left"), (errno.EACCES, "cannot be written"),
     (errno.EROFS, "cannot be written"), (errno.EPERM, "cannot be written")],
    ids=["ENOSPC", "EDQUOT", "EACCES", "EROFS", "EPERM"],
)  # fmt: skip
def test_refusals_of_the_disk_say_what_to_do(number: int, message: str):
    with pytest.raises(StorageError, match=f"/some/where: {message}.*--root") as error, storage(Path("/some/where")):
        raise OSError(number, os.strerror(number))
    assert error.value.exit_code == 5


def test_other_errors_are_not_the_disk():
    with pytest.raises(FileNotFoundError), storage(Path("/some/where")):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")


def test_json_comes_back_and_what_is_torn_is_named(tmp_path: Path):
    path, value = tmp_path / "value.json", {"ä": [1, 2.5, None, True], "b": {"c": "\U0001f600"}}
    write_json(path, value)
    assert read_json(path) == value and "ä" in path.read_text(encoding="utf-8")
    for content in (b"", b'{"a": 1', b"\xff\xfe"):
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match=r"value.json: not readable as JSON"):
            read_json(path)
    path.unlink()
    with pytest.raises(ArtifactError, match=r"value.json: missing"):
        read_json(path)


def test_digests_are_of_the_content(tmp_path: Path):
    assert digest({"b": 1, "a": [2]}) == digest({"a": [2], "b": 1}) != digest({"a": [2], "b": 1.5})
    assert canonical({"b": "é", "a": 1}) == '{"a":1,"b":"é"}'
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_second_holder_is_told_who_holds_the_lock(tmp_path: Path):
    path = tmp_path / "new" / ".lock"
    with lock(path, "artifacts"):
        told = f"artifacts: in use by process {os.getpid()} on "
        with pytest.raises(LockedError, match=told) as error, lock(path, "artifacts"):
            pytest.fail("held twice")
        assert error.value.exit_code == 6
    with lock(path, "artifacts"):
        pass


def test_lock_is_free_after_an_error_inside(tmp_path: Path):
    with pytest.raises(ZeroDivisionError), lock(tmp_path / ".lock", "x"):
        raise ZeroDivisionError
    with lock(tmp_path / ".lock", "x"):
        pass


HOLD = """
import sys, time
from pathlib import Path
from nano_think.core.files import lock
with lock(Path(sys.argv[1]), "artifacts"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_lock_of_another_process_dies_with_it(tmp_path: Path):
    path = tmp_path / ".lock"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
            with pytest.raises(LockedError, match=f"process {holder.pid} on "), lock(path, "artifacts"):
                pytest.fail("held twice")
        finally:
            os.kill(holder.pid, signal.SIGKILL)
    with lock(path, "artifacts"):
        pass
