"""The memories of one model, by namespace."""

from pathlib import Path

from nano_think.memory.conversation import Conversations
from nano_think.memory.journal import LOG, Owner
from nano_think.memory.places import place


class Namespaces:
    """What each namespace under a root has said to one model: opened for writing when first wanted, and then held.

    `UsageError` for a name that may not be one, `LockedError` where another process writes it.
    """

    def __init__(self, root: Path, owner: Owner):
        self._root, self._owner = root, owner
        self._held: dict[str, Conversations] = {}

    def __call__(self, namespace: str) -> Conversations:
        if namespace not in self._held:
            folder = place(self._root, self._owner.model, namespace)
            self._held[namespace] = Conversations(folder, self._owner, write=True)
        return self._held[namespace]

    def exists(self, namespace: str) -> bool:
        """Whether a namespace has ever been written to; nothing is opened or made to find that."""
        return namespace in self._held or (place(self._root, self._owner.model, namespace) / LOG).is_file()

    def close(self) -> None:
        while self._held:
            self._held.popitem()[1].close()
