"""Chats as documents: the messages are kept as JSON text, so that they are cleaned, split and sharded as text is."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nano_think.core.errors import ArtifactError, InputError
from nano_think.data import tokenizer_chat
from nano_think.data.cutting import cut_runs
from nano_think.data.tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy as np

Message = Mapping[str, str]


def to_text(messages: Any) -> str:
    """The document of a chat; `InputError` says what is wrong with messages that nobody could learn from.

    Wanted: {"role", "content"} each, roles as `tokenizer_chat.ROLES`, at least one message of the assistant.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise InputError('wanted "messages", a list of {"role", "content"}')
    said = [_message(number, message) for number, message in enumerate(messages, 1)]
    tokenizer_chat.encode(said, lambda text: [], dict.fromkeys(tokenizer_chat.CHAT, 0))
    if not any(one["role"] == "assistant" and one["content"].strip() for one in said):
        raise InputError("the assistant says nothing in it")
    text = json.dumps(said, ensure_ascii=False)
    if len(cut_runs(text)) > 1:
        raise InputError("a word of it is longer than any document's may be")
    return text


def _message(number: int, message: Any) -> dict[str, str]:
    if not isinstance(message, Mapping):
        raise InputError(f"message {number}: wanted an object with role and content, got {type(message).__name__}")
    return {name: message.get(name) for name in ("role", "content")}  # type: ignore[misc]


def from_text(text: str) -> list[dict[str, str]]:
    """The messages of a chat's document."""
    try:
        return json.loads(text)
    except ValueError:
        raise ArtifactError(f"not a chat: {text[:60]!r}; give chats where chats are wanted") from None


class ChatEncoder:
    """The face of `Tokenizer` that `write_tokens` needs, for documents that are chats: by the chat template."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer, self.vocab_size = tokenizer, tokenizer.vocab_size

    def encode_many(self, texts: Sequence[str]) -> tuple["np.ndarray", "np.ndarray"]:
        """As `Tokenizer.encode_many`: every chat opens with the start token."""
        import numpy as np

        rows = [self._tokenizer.encode_chat(from_text(text))[0] for text in texts]
        ids = [token for row in rows for token in row]
        return np.array(ids, dtype=np.uint32), np.array([len(row) for row in rows], dtype=np.int64)
