"""What a namespace remembers, as a person reads it, and its erasure.

A memory keeps the tokens of turns; what is shown is their text. All of it runs on the engine's thread.
"""

import logging
from datetime import UTC, datetime
from typing import Any, Protocol

from nano_think.core.console import clean
from nano_think.core.errors import NanoThinkError, UsageError
from nano_think.data.tokenizer import Tokenizer
from nano_think.memory.conversation import LIMIT, Conversations
from nano_think.memory.turn import Turn
from nano_think.serving.errors import ApiError

log = logging.getLogger(__name__)


class Opens(Protocol):
    """What is used of `Namespaces`."""

    def __call__(self, namespace: str, write: bool = True) -> Conversations: ...
    def exists(self, namespace: str) -> bool: ...


class Recall:
    """`open` gives the memory of a namespace; one that was never written is not made by asking for it."""

    def __init__(self, open: Opens, tokenizer: Tokenizer):
        self._open, self._tokenizer = open, tokenizer

    def show(self, namespace: str) -> dict[str, Any]:
        """The documents (conversations) of a namespace, the newest first, each with the text of its turns."""
        memory = self._memory(namespace, write=False)
        if memory is None:
            return {"namespace": namespace, "entries": 0, "limit": LIMIT, "documents": []}
        documents: dict[int, list[Turn]] = {}
        for turn in memory.turns():
            documents.setdefault(turn.document, []).append(turn)
        shown = [self._document(number, turns) for number, turns in sorted(documents.items(), reverse=True)]
        return {"namespace": namespace, "entries": len(memory), "limit": memory.limit, "documents": shown}

    def forget(self, namespace: str, document: int | None = None) -> dict[str, Any]:
        """Erase one document, or all of a namespace, from every file; how many entries went."""
        memory = self._memory(namespace, write=True)
        if memory is not None and not memory.write:
            raise ApiError(503, f"another process writes memory '{namespace}' now; erase it there", code="in_use")
        gone = memory.forget(None if document is None else [document]) if memory is not None else 0
        if document is not None and not gone:
            raise ApiError(404, f"memory '{namespace}' has no document {document}", code="document_not_found")
        return {"namespace": namespace, "document": document, "entries": gone}

    def _memory(self, namespace: str, write: bool) -> Conversations | None:
        try:
            return self._open(namespace, write) if self._open.exists(namespace) else None
        except UsageError as error:
            raise ApiError(400, str(error), param="namespace") from None
        except (NanoThinkError, OSError) as error:
            log.warning("a memory cannot be opened: %s", clean(str(error)))
            raise ApiError(503, "this memory cannot be opened now; the server's log says why") from None

    def _document(self, number: int, turns: list[Turn]) -> dict[str, Any]:
        parts, end = [], None
        for turn in turns:
            # The last token of a turn is the first of the one that goes on from it.
            parts.append(turn.tokens[int(turn.first == end) :].tolist())
            end = turn.first + len(turn.tokens) - 1
        text = "".join(map(self._tokenizer.decode, parts))
        written = datetime.fromtimestamp(max(turn.written for turn in turns), UTC).isoformat(timespec="seconds")
        return {"document": number, "text": text, "entries": sum(map(len, turns)), "written": written}
