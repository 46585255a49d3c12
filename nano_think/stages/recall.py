"""The memories that go with a trained mixture, as an engine wants them."""

from collections.abc import Callable

from nano_think.inference.remembering import Memories
from nano_think.memory.conversation import Conversations
from nano_think.memory.read import Gate
from nano_think.stages.artifact import Artifact
from nano_think.stages.memory import load_memories


def memories_of(memory: Artifact | None, conversations: Callable[[str, bool], Conversations]) -> Memories:
    """The store of a memory artifact, and how much neighbours count, as it was fitted there, also in conversations.

    Without an artifact nothing says how much they should count, and they do not: conversations are remembered alone.
    """
    if memory is None:
        return Memories(conversations=conversations, gate=Gate())
    built = load_memories(memory)
    return Memories(conversations=conversations, store=built.store, gate=built.persistent)
