"""The log: what was acknowledged is there after a kill, and damage is never taken for one."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from nano_think.core.errors import ArtifactError, StorageError
from nano_think.memory import log as log_module
from nano_think.memory.turn import Head, Turn
from tests.memory.conversations import WIDTH, keys, open_memory, remember, tokens_of

WRITER = Path(__file__).with_name("killed.py")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """The log of three turns, the last of which begins at byte `begins(log)`."""
    with open_memory(tmp_path) as memory:
        for n in range(3):
            remember(memory, n)
    return memory.folder / "entries.log"


def ends(log: Path) -> list[int]:
    """Where each record ends."""
    with log.open("rb") as file:
        return [end for end, _ in log_module.read_records(file, log)]


def test_a_torn_tail_is_cut_off_and_told(log: Path, tmp_path: Path):
    """At every byte of the last record; a reader leaves it as it is, for it may be under way."""
    whole = log.read_bytes()
    *_, begin, end = ends(log)
    assert end == len(whole)
    for cut in range(begin, end):
        log.write_bytes(whole[:cut])
        assert len(open_memory(tmp_path, write=False)) == 6 and log.stat().st_size == cut
        with open_memory(tmp_path) as memory:
            assert tokens_of(memory) == [0, 1, 2, 1000, 1001, 1002]
            told = [f"{log}: {cut - begin} bytes of a record that was never finished were cut off"]
            assert memory.told == (told if cut > begin else [])
            assert log.stat().st_size == begin
    with open_memory(tmp_path) as memory:
        remember(memory, 2)
    assert len(open_memory(tmp_path, write=False)) == 9


def test_zeros_where_a_record_should_be_are_a_torn_tail(log: Path, tmp_path: Path):
    """What a power cut leaves: the file is as long as it should be, the end of it never reached the disk."""
    whole = log.read_bytes()
    *_, begin, end = ends(log)
    for written in range(begin, end):
        log.write_bytes(whole[:written] + bytes(end - written))
        assert len(open_memory(tmp_path, write=False)) == 6, written
    log.write_bytes(whole + bytes(4096))
    assert len(open_memory(tmp_path, write=False)) == 9


def test_a_flipped_byte_is_damage_and_no_torn_tail(log: Path, tmp_path: Path):
    """At every byte: the record is named, nothing is cut off, and nothing is read as if it were right."""
    whole, starts = log.read_bytes(), [0, *ends(log)]
    for at in range(len(whole)):
        log.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        begin = max(start for start in starts if start <= at)
        with pytest.raises(ArtifactError, match=f"entries.log: the record at byte {begin} is damaged; .*forget"):
            open_memory(tmp_path)
        assert log.stat().st_size == len(whole)


@pytest.mark.parametrize("bit", range(8))
def test_a_flipped_bit_of_a_length_is_damage(bit: int, log: Path, tmp_path: Path):
    """A record that seems to reach beyond the end of the file would else be taken for a torn one."""
    whole, begin = bytearray(log.read_bytes()), ends(log)[0]
    for at in range(begin, begin + 4):
        spoilt = whole.copy()
        spoilt[at] ^= 1 << bit
        log.write_bytes(spoilt)
        with pytest.raises(ArtifactError, match=f"byte {begin} is damaged"):
            open_memory(tmp_path)


@pytest.mark.parametrize("cut", [0, 5, 40])
def test_a_log_without_its_first_record_is_refused(cut: int, log: Path, tmp_path: Path):
    log.write_bytes(log.read_bytes()[:cut])
    with pytest.raises(ArtifactError, match="cut off in its first record; remove the file"):
        open_memory(tmp_path)


def test_a_full_disk_takes_back_what_it_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The turn is refused, what was there stays, and when there is room again the next one follows it."""
    write = os.write

    def refuse(file: int, data) -> int:
        if len(data) < 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[: len(data) - 60])

    with open_memory(tmp_path) as memory:
        remember(memory, 0)
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", refuse)
            with pytest.raises(StorageError, match="no space left"):
                remember(memory, 1)
        assert tokens_of(memory) == [0, 1, 2] and memory.clock == 3
        remember(memory, 2)
        assert tokens_of(memory) == tokens_of(open_memory(tmp_path, write=False)) == [0, 1, 2, 2000, 2001, 2002]


@pytest.mark.parametrize("struck", ["write", "fsync", "pass", "take"])
def test_ctrl_c_while_a_turn_is_written_leaves_all_of_it_or_nothing(struck, tmp_path: Path, monkeypatch):
    """In the middle of the record, before it is flushed, or between the disk and the index."""
    write = os.write

    def interrupt(*arguments) -> None:
        if struck == "write":
            write(arguments[0], arguments[1][:20])
        raise KeyboardInterrupt

    with open_memory(tmp_path) as memory:
        remember(memory, 0)
        where = {"write": (os, "write"), "fsync": (os, "fsync"), "pass": (memory._journal, "_passed")}
        with monkeypatch.context() as patch:
            patch.setattr(*where.get(struck, (memory._store, "add")), once(patch, interrupt))
            with pytest.raises(KeyboardInterrupt):
                remember(memory, 1)
        remember(memory, 2)
        wanted = [0, 1, 2, *([] if struck in ("write", "fsync") else [1000, 1001, 1002]), 2000, 2001, 2002]
        assert tokens_of(memory) == tokens_of(open_memory(tmp_path, write=False)) == wanted
        assert memory.clock == len(wanted)


def once(patch: pytest.MonkeyPatch, function):
    """A function that takes itself and all other patches back when it is called."""

    def call(*arguments):
        patch.undo()
        return function(*arguments)

    return call


def test_where_not_even_that_is_possible_nothing_more_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with open_memory(tmp_path) as memory:
        remember(memory, 0)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", refuse)
            with pytest.raises(OSError, match="Input/output"):
                remember(memory, 1)
        with pytest.raises(StorageError, match="open it anew"):
            remember(memory, 2)
    assert len(open_memory(tmp_path, write=False)) in (3, 6)


@pytest.mark.parametrize(
    "columns",
    [
        {"offset": np.array([0, 3])},
        {"offset": np.array([-1, 1])},
        {"weight": np.ones(3)},
        {"key": keys(2)[:, :3]},
        {"tokens": np.array(7)},
        {"weight": np.array([1, np.nan])},
        {"weight": np.array([1, 0])},
        {"first": -1},
        {"written": 2**62},
    ],
    ids=["beyond", "before", "more weights", "narrow keys", "no tokens", "no weight", "nothing", "first", "no time"],
)
def test_columns_that_do_not_fit_together_are_refused(columns: dict, tmp_path: Path):
    """With checksums that are right: a file may come from anywhere."""
    right = {"tokens": np.arange(4), "offset": np.array([0, 2]), "weight": np.ones(2), "key": keys(2)}
    places = {"document": 0, "first": 0, "time": 0, "written": 0}
    assert len(Turn.unpack(Turn(**right, **places).pack(), 4, tmp_path)) == 2
    with pytest.raises(ArtifactError, match="not a turn"):
        Turn.unpack(Turn(**right | places | columns).pack(), 4, tmp_path)


NO_ENTRIES = {"offset": np.zeros(0), "weight": np.zeros(0), "key": np.zeros((0, WIDTH))}
TOLD = {"document": 2, "first": 5, "time": 9, "written": 7}


def test_a_turn_without_entries_is_read_back(tmp_path: Path):
    turn = Turn.unpack(Turn(tokens=np.arange(4), **NO_ENTRIES, **TOLD).pack(), WIDTH, tmp_path)
    assert turn.tokens.tolist() == [0, 1, 2, 3] and (len(turn), turn.end) == (0, 12)
    assert len(turn.entries()) == 0 and turn.entries().width == WIDTH


@pytest.mark.parametrize(
    "columns",
    [
        {"tokens": np.array(7)},
        {"tokens": np.zeros(0)},
        {"tokens": np.zeros(1)},
        {"tokens": np.zeros((2, 2))},
        {"weight": np.ones(1)},
        {"key": np.zeros((0, 3))},
        {"key": np.zeros((1, WIDTH))},
        {"offset": np.zeros((0, 2))},
    ],
    ids=["no row", "no tokens", "one token", "two rows", "a weight", "narrow keys", "a key", "wide offsets"],
)
def test_damaged_turns_without_entries_are_refused(columns: dict, tmp_path: Path):
    with pytest.raises(ArtifactError, match="not a turn"):
        Turn.unpack(Turn(**{"tokens": np.arange(4)} | NO_ENTRIES | columns, **TOLD).pack(), WIDTH, tmp_path)


@pytest.mark.parametrize("column", ["tokens", "offset"])
def test_ids_that_are_no_whole_numbers_are_refused(column: str, tmp_path: Path):
    columns = load(Turn(tokens=np.arange(4), **NO_ENTRIES, **TOLD).pack())
    with pytest.raises(ArtifactError, match="not a turn"):
        Turn.unpack(save(columns | {column: columns[column].astype(np.float32)}), WIDTH, tmp_path)


@pytest.mark.parametrize("place", ["head", "tokens", "end"])
def test_a_flipped_byte_of_a_turn_without_entries_is_damage(place: str, tmp_path: Path):
    """In the middle of a log, as any other: told with its byte, and never cut off."""
    with open_memory(tmp_path) as memory:
        memory.append(0, [1, 2, 3], keys(2))
        memory.append(0, [1, 2, 3], keys(2), first=2)
        memory.sleep(0.99)
    path = memory.folder / "entries.log"
    content, (begin, end, _) = bytearray(path.read_bytes()), ends(path)
    content[{"head": begin, "tokens": content.index(np.array([1, 2, 3], "<i4").tobytes()), "end": end - 1}[place]] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=f"byte {begin} is damaged"):
        open_memory(tmp_path)
    assert path.read_bytes() == content


CLOCK = b'{"model": "a", "tokenizer": "b", "width": 4, "generation": "c", "clock": "now"}'


@pytest.mark.parametrize("payload", [b"", b"no", b"[1]", b'{"model": 1}', bytes(9), CLOCK])
def test_what_is_no_record_of_ours_is_refused(payload: bytes, tmp_path: Path):
    with pytest.raises(ArtifactError, match="not a turn"):
        Turn.unpack(payload, 4, tmp_path)
    with pytest.raises(ArtifactError, match="not that of a memory"):
        Head.unpack(payload, tmp_path)


@pytest.mark.slow
def test_a_killed_writer_loses_nothing_that_it_acknowledged(tmp_path: Path):
    """Twenty times, while it appends and evicts."""
    last = -1
    for turn in range(20):
        process = subprocess.Popen([sys.executable, WRITER, tmp_path, "append"], stdout=subprocess.PIPE, text=True)
        assert process.stdout
        for _ in range(3 + 5 * (turn % 5)):
            last = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        process.wait()
        last = max([last, *map(int, process.stdout.read().split())])
        process.stdout.close()
        with open_memory(tmp_path, limit=512) as memory:
            newest = int(memory.entries.document.max())
            assert newest in (last, last + 1), "one more may have been written and not yet acknowledged"
            documents, counts = np.unique(memory.entries.document, return_counts=True)
            assert documents.tolist() == list(range(documents[0], newest + 1)) and (counts == 40).all()
            assert len(documents) >= min(newest, 9)
