"""The file of a conversation's memory: its turns in the order of time, one record each.

T tokens
"""

import contextlib
import dataclasses
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from nano_think.core.errors import ArtifactError, storage
from nano_think.core.files import replacing, sync
from nano_think.memory.log import LogWriter, pack, read_records
from nano_think.memory.turn import Head, Turn

LOG = "entries.log"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Owner:
    """Whose hidden states a memory holds: digest of the model, sha256 of its tokenizer, model width."""

    model: str
    tokenizer: str
    width: int


def read_owner(folder: Path) -> Owner:
    """Whose memory lies in a folder."""
    with (folder / LOG).open("rb") as file:
        head, _ = _read_head(file, folder / LOG)
    return Owner(model=head.model, tokenizer=head.tokenizer, width=head.width)


def _read_head(file: BinaryIO, path: Path) -> tuple[Head, int]:
    """The first record, and where it ends."""
    end, payload = next(read_records(file, path), (0, b""))
    if not end:
        raise ArtifactError(f"{path}: cut off in its first record; remove the file")
    return Head.unpack(payload, path), end


class Journal:
    """The turns in `folder`, all of one owner. Read to its end first (`read`), then on (`read_on`) or, by one process
    that holds the folder's lock, written.

    `head` is kept up to date: its clock and documents are beyond every turn that was read or written.
    """

    def __init__(self, folder: Path, owner: Owner):
        self.folder, self.owner, self.path = folder, owner, folder / LOG
        self.head, self._end = self._new_head(), 0
        self._writer: LogWriter | None = None

    def _new_head(self) -> Head:
        return Head(**dataclasses.asdict(self.owner), generation=uuid.uuid4().hex)

    def read(self) -> Iterator[Turn]:
        """All turns, the oldest first; none where there is no file. `ArtifactError`: damaged, or another owner's."""
        self.head, self._end = self._new_head(), 0
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            self.head, self._end = self._read_head(file)
            yield from self._read_turns(file)

    def read_on(self) -> Iterator[Turn] | None:
        """The turns that were written since; None when the file was written anew or erased and is to be read again."""
        if not self.path.exists():
            return None if self._end else iter(())
        with self.path.open("rb") as file:
            same = self._read_head(file)[0].generation == self.head.generation
            return iter(list(self._read_turns(file))) if same else None

    def _read_head(self, file: BinaryIO) -> tuple[Head, int]:
        head, end = _read_head(file, self.path)
        for name, wanted in dataclasses.asdict(self.owner).items():
            got = getattr(head, name)
            if got != wanted:
                what = f"wanted {name} {str(wanted)[:12]}, got {str(got)[:12]}"
                remedy = "choose the model that it is of, or read its text with this one: --encode-again"
                raise ArtifactError(f"{self.path}: a memory of another model: {what}; {remedy}")
        return head, end

    def _read_turns(self, file: BinaryIO) -> Iterator[Turn]:
        file.seek(self._end)
        for end, payload in read_records(file, self.path):
            turn = Turn.unpack(payload, self.owner.width, self.path)
            self._passed(turn)
            self._end = end
            yield turn

    def _passed(self, turn: Turn) -> None:
        clock, documents = max(self.head.clock, turn.end), max(self.head.documents, turn.document + 1)
        self.head = dataclasses.replace(self.head, clock=clock, documents=documents)

    def begin(self) -> int:
        """The number of a new document."""
        number = self.head.documents
        self.head = dataclasses.replace(self.head, documents=number + 1)
        return number

    def create(self, turns: Iterable[Turn], like: Head) -> None:
        """For the writer: a file of these turns, with the clock and the documents of another."""
        head = dataclasses.replace(self._new_head(), clock=like.clock, documents=like.documents)
        self._publish(head, turns)

    def prepare(self) -> None:
        """For the writer, before it reads: a file where there is none, nothing left of a rewriting that was killed."""
        with storage(self.folder):
            for left in self.folder.glob(".*.tmp"):
                left.unlink()
            if not self.path.exists():
                self._publish(self._new_head(), ())
                sync(self.folder.parent)

    def start_writing(self) -> int:
        """For the writer, when it has read; how many bytes of a torn tail were cut off."""
        torn = self.path.stat().st_size - self._end
        self._writer = LogWriter(self.path, self._end)
        return torn

    def append(self, turn: Turn) -> None:
        """When this returns the turn is on the disk; else `StorageError`, and nothing of it is."""
        assert self._writer, "not open for writing"
        self._writer.append(turn.pack())
        self._passed(turn)

    def rewrite(self, keep: Callable[[Turn], Turn | None]) -> None:
        """Replace the file, at once, by one with what `keep` leaves of each turn; then it is to be read again."""
        self.stop_writing()
        head = dataclasses.replace(self.head, generation=uuid.uuid4().hex)
        # A turn without entries is false, and still to be kept.
        self._publish(head, (turn for turn in map(keep, self.read()) if turn is not None))

    def _publish(self, head: Head, turns: Iterable[Turn]) -> None:
        with replacing(self.path) as temporary, temporary.open("wb") as file:
            file.write(pack(head.pack()))
            for turn in turns:
                file.write(pack(turn.pack()))

    def stop_writing(self) -> None:
        if self._writer:
            self._writer.close()
            self._writer = None
