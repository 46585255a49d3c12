"""A conversation's memory: a journal on the disk and an index of it, for one writer and many readers.

T tokens, S entries, Q queries, D model width, k neighbours
"""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import numpy as np

from nano_think.core.errors import StorageError, UsageError
from nano_think.core.files import lock
from nano_think.memory import snapshot
from nano_think.memory.entries import Entries
from nano_think.memory.journal import Journal, Owner
from nano_think.memory.kept import Kept, remove_kept
from nano_think.memory.merging import merge
from nano_think.memory.store import VectorStore
from nano_think.memory.texts import Texts
from nano_think.memory.turn import Turn

LOCK = "lock"
TURN_TOKENS = 512
LIMIT = 100_000
# What an eviction leaves: the log is then written anew once for every tenth of the limit that is added.
LEFT = 0.9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """The nearest entries: similarity (Q, k), -inf for none, and value, weight, document, position and time (Q, k),
    -1 for none (weight: 0).
    """

    similarity: np.ndarray
    value: np.ndarray
    weight: np.ndarray
    document: np.ndarray
    position: np.ndarray
    time: np.ndarray


class Conversations:
    """All that one namespace has said to one model, in the folder ROOT/memory/<model digest>/<namespace>/.

    Threads may share one: appends follow each other, searches wait neither for the disk nor for an index that is
    trained anew. With `write` it holds the folder's lock until `close`; without, it sees what was there, and more after
    `refresh`. Of more than `limit` entries the oldest turns go: the newest are what a conversation is likely to come
    back to, and an order of use would make every search a write. `told` says what was found amiss, and mended or put
    off; `users` counts who works with it, and would miss it if it were closed. `kept` is what a model that remembers
    keeps of it (`inference/carrying.py`).
    """

    def __init__(self, folder: Path, owner: Owner, *, write: bool = False, limit: int = LIMIT):
        if limit < TURN_TOKENS:
            raise UsageError(f"a memory's limit: wanted at least {TURN_TOKENS} entries, got {limit}")
        self.folder, self.owner, self.limit, self.write = folder, owner, limit, write
        self.told: list[str] = []
        self.users = 0
        self.kept: Kept | None = None
        self._journal = Journal(folder, owner)
        self._writing, self._guard = threading.RLock(), threading.Lock()
        with contextlib.ExitStack() as opening:
            if write:
                opening.enter_context(lock(folder / LOCK, f"memory '{folder.name}'"))
                self._journal.prepare()
            self._open()
            self._held = opening.pop_all()

    def _open(self) -> None:
        turns = [(turn.entries(), Texts.of(turn)) for turn in self._journal.read()]
        entries = Entries.join([Entries.none(self.owner.width), *(entries for entries, _ in turns)])
        texts = Texts.join(text for _, text in turns)
        # Their keys, which are copied.
        del turns
        generation = self._journal.head.generation
        lists = snapshot.load_snapshot(self.folder, generation, len(entries), self.owner.width)
        store = VectorStore(entries, self.owner.model, lists=lists)
        with self._guard:
            self._store, self._texts = store, [texts]
        torn = self._journal.start_writing() if self.write else 0
        if torn:
            self.told.append(f"{self._journal.path}: {torn} bytes of a record that was never finished were cut off")

    def __enter__(self) -> "Conversations":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._store)

    @property
    def entries(self) -> Entries:
        """All entries, the oldest first."""
        with self._guard:
            return self._store.entries

    @property
    def texts(self) -> Texts:
        """All that was said and not erased, the oldest first, also what sleep has merged."""
        with self._guard:
            self._texts = [Texts.join(self._texts)]
            return self._texts[0]

    @property
    def clock(self) -> int:
        """The time of the next entry: a query at this time sees all there is."""
        return self._journal.head.clock

    @property
    def generation(self) -> str:
        """Another one after every erasure."""
        return self._journal.head.generation

    def begin(self) -> int:
        """The number of a new document."""
        with self._writing:
            return self._journal.begin()

    def append(self, document: int, tokens: Collection[int], key_TD: np.ndarray, first: int = 0) -> int:
        """Remember T tokens of a document from position `first` on: T + 1 `tokens` (the last is only what came next)
        and the key behind each of the first T. Returns the clock; then they are on the disk and are found.

        Raises `StorageError` when the disk refuses: what was not acknowledged is then not remembered, or (of more than
        512 tokens) only its first ones. A snapshot or an eviction that it refuses is told, and tried again later.
        """
        tokens_N, T = np.asarray(tokens, dtype=np.int64), len(key_TD)
        assert len(tokens_N) == T + 1 and key_TD.shape[1:] == (self.owner.width,), (len(tokens_N), key_TD.shape)
        with self._writing:
            for start in range(0, T, TURN_TOKENS):
                end = min(start + TURN_TOKENS, T)
                self._append(document, tokens_N[start : end + 1], key_TD[start:end], first + start)
            if len(self) > self.limit:
                self.put_off(self._evict)
            return self.clock

    def _append(self, document: int, tokens_N: np.ndarray, key_TD: np.ndarray, first: int) -> None:
        T = len(key_TD)
        turn = Turn(
            tokens=tokens_N, offset=np.arange(T), weight=np.ones(T), key=key_TD, document=document, first=first,
            time=self.clock, written=int(time.time()),
        )  # fmt: skip
        entries = turn.entries().checked()
        try:
            self._journal.append(turn)
            self._take(turn, entries)
        except KeyboardInterrupt:
            # It may have come between the disk and what is known here: what is on the disk counts.
            self._journal.stop_writing()
            self._open()
            raise

    def _take(self, turn: Turn, entries: Entries) -> None:
        """Let searches find a turn's entries. An index that has to be trained anew is, while searches go on with the
        old.
        """
        with self._guard:
            self._texts.append(Texts.of(turn))
        if self._store.index.fits(len(entries)):
            with self._guard:
                self._store.add(entries)
            return
        larger = VectorStore(Entries.join([self._store.entries, entries]), self.owner.model)
        with self._guard:
            self._store = larger
        if self.write:
            self.put_off(self.snapshot)

    def put_off(self, work: Callable[[], object]) -> None:
        """Do what no turn depends on; where the disk refuses, that is told once, and nobody's turn fails of it."""
        try:
            work()
        except (StorageError, OSError) as error:
            if str(error) not in self.told:
                self.told.append(str(error))

    def search(self, query_QD: np.ndarray, k: int, before: int | None = None) -> Found:
        """The k nearest entries of each query; only those with time < `before`, if given."""
        before_Q = None if before is None else np.full(len(query_QD), before)
        with self._guard:
            similarity_Qk, entry_Qk = self._store.find(query_QD, k, before_Q)
            store, entries = self._store, self._store.entries
        columns = {name: store.pick(getattr(entries, name), entry_Qk) for name in ("document", "position", "time")}
        return Found(
            similarity=similarity_Qk, value=store.values_of(entry_Qk), weight=store.weights_of(entry_Qk), **columns
        )

    def forget(self, documents: Collection[int] | None = None) -> int:
        """Erase documents, or all, from every file; how many entries went.

        Their tokens, keys and counts: sleep merges within a document alone. What the model thought in another document
        while it had read these, as in one that branched off, is that document's own and stays.
        """
        return self._rewrite(lambda turn: None if documents is None or turn.document in documents else turn)

    def sleep(self, threshold: float) -> int:
        """Merge near-duplicates (`merge`, which see); how many entries went. Every turn keeps its tokens, also one of
        which no entry is left.
        """
        with self._writing:
            weight_S, time_S = merge(self.entries, threshold), self.entries.time

            def awake(turn: Turn) -> Turn:
                first, end = np.searchsorted(time_S, [turn.time, turn.end])
                weight_n = weight_S[first:end]
                left_n = weight_n > 0
                offset, weight, key = turn.offset[left_n], weight_n[left_n], turn.key[left_n]
                return dataclasses.replace(turn, offset=offset, weight=weight, key=key)

            return self._rewrite(awake)

    def _evict(self) -> None:
        """Let the oldest turns go until a tenth of the limit is free; the newest stays."""
        oldest, clock = self.entries.time[-int(LEFT * self.limit)], self.clock
        self._rewrite(lambda turn: turn if turn.time >= oldest or turn.end == clock else None)

    def _rewrite(self, keep: Callable[[Turn], Turn | None]) -> int:
        assert self.write, "opened for reading"
        with self._writing:
            before = len(self)
            # First, so that a crash in between cannot leave a trace of what is erased.
            snapshot.remove_snapshot(self.folder)
            remove_kept(self.folder)
            try:
                self._journal.rewrite(keep)
            finally:
                self._open()
            return before - len(self)

    def turns(self) -> Iterator[Turn]:
        """All that was written and not erased, the oldest first."""
        return Journal(self.folder, self.owner).read()

    def snapshot(self) -> bool:
        """Keep what the index has learned, if it has, so that opening needs no training; whether it had."""
        with self._writing:
            lists = self._store.index.lists()
            if lists:
                snapshot.save_snapshot(self.folder, self._journal.head.generation, lists)
            return lists is not None

    def refresh(self) -> None:
        """For a reader: see what the writer has written since."""
        with self._writing:
            turns = self._journal.read_on()
            if turns is None:
                self._open()
                return
            for turn in turns:
                self._take(turn, turn.entries())

    def close(self) -> None:
        with self._writing:
            if self.write:
                self.put_off(self.snapshot)
            self.write = False
            self._journal.stop_writing()
            self._held.close()
