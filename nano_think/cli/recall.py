"""The memories of one command."""

from contextlib import ExitStack
from pathlib import Path

from nano_think.cli.memory.search import owner_of
from nano_think.inference.remembering import Memories
from nano_think.memory.conversation import Conversations
from nano_think.memory.places import find, place
from nano_think.stages.artifact import Artifact
from nano_think.stages.recall import memories_of


def open_memories(root: Path, model: Artifact, memory: Artifact | None, held: ExitStack) -> Memories:
    """What was read before and what namespaces have said below a root, which is closed with `held`.

    To a request that only reads, a namespace that has said nothing, or nothing to this model, is an error.
    """
    owner = owner_of(model)

    def conversations(namespace: str, write: bool) -> Conversations:
        folder = place(root, owner.model, namespace) if write else find(root, owner, namespace)
        return held.enter_context(Conversations(folder, owner, write=write))

    return memories_of(memory, conversations)
