"""The memories of one model, by namespace."""

from pathlib import Path

from nano_think.core.errors import LockedError
from nano_think.memory.conversation import Conversations
from nano_think.memory.journal import LOG, Owner
from nano_think.memory.places import place

MOST_OPEN = 64


class Namespaces:
    """What each namespace under a root has said to one model: opened when first wanted, and then held.

    For writing, one that is not there is made; where another process writes it, it is opened for reading alone, and for
    writing once that process has left. For reading, one that is held is given as it is, else nothing is made and no
    lock taken: others may write it, and what they wrote is seen at the next call. Of more than `most` the one that was
    not wanted for longest is closed, unless it is in use. `UsageError` for a name that may not be one.
    """

    def __init__(self, root: Path, owner: Owner, most: int = MOST_OPEN):
        self._root, self._owner, self._most = root, owner, most
        # The one that was not wanted for longest first.
        self._held: dict[str, Conversations] = {}

    def __call__(self, namespace: str, write: bool = True) -> Conversations:
        folder = place(self._root, self._owner.model, namespace)
        if not write and not self.exists(namespace):
            return Conversations(folder, self._owner)
        memory = self._held.pop(namespace, None)
        if memory is None or not memory.write:
            memory = self._open(folder, memory) if write else self._read(folder, memory)
        self._held[namespace] = memory
        self._close_idle()
        return memory

    def _open(self, folder: Path, before: Conversations | None) -> Conversations:
        try:
            return Conversations(folder, self._owner, write=True)
        except LockedError:
            return self._read(folder, before)

    def _read(self, folder: Path, before: Conversations | None) -> Conversations:
        if before is None:
            return Conversations(folder, self._owner)
        before.refresh()
        return before

    def _close_idle(self) -> None:
        *others, _ = self._held
        for name in [name for name in others if not self._held[name].users][: max(0, len(self._held) - self._most)]:
            self._held.pop(name).close()

    def exists(self, namespace: str) -> bool:
        """Whether there is a memory of a namespace; nothing is opened or made to find that."""
        return (place(self._root, self._owner.model, namespace) / LOG).is_file()

    def close(self) -> None:
        while self._held:
            self._held.popitem()[1].close()
