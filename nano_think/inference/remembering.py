"""What a model thinks behind each token of a text, as a memory keeps it, and what a turn reads there and leaves behind.

T tokens, S entries, D model width, V vocabulary
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from nano_think.core.errors import LockedError
from nano_think.inference.carrying import carried
from nano_think.inference.request import Request
from nano_think.memory.read import NEIGHBOURS, Gate, Neighbours, mix_logits, to_key
from nano_think.memory.texts import Texts
from nano_think.models.chat import Model

if TYPE_CHECKING:
    # These bring FAISS, which nobody needs who has no memory.
    from nano_think.memory.conversation import Conversations
    from nano_think.memory.store import VectorStore


@torch.inference_mode()
def keys_of(model: Model, tokens_T: np.ndarray, window: int) -> np.ndarray:
    """The key behind each token, (T, D); a text longer than the window is read in windows that follow each other."""
    pieces = torch.as_tensor(np.asarray(tokens_T, dtype=np.int64), device=model.head.table.device).split(window)
    return torch.cat([to_key(model(piece[None]).hidden[0]) for piece in pieces]).cpu().numpy()


@dataclass(frozen=True, kw_only=True)
class Memories:
    """The memories that an engine may use, all of its model.

    `conversations` opens what a namespace has said, to be written or only read, or gives what is open; `NanoThinkError`
    where it cannot. `store` is what was read before all conversations, for everybody. `gate`: how much the neighbours
    in both count.
    """

    conversations: "Callable[[str, bool], Conversations]"
    store: "VectorStore | None" = None
    gate: Gate = Gate()

    def begin(self, request: Request, model: Model) -> "Turn | None":
        """The memory of one request, where it wants one."""
        return Turn(self, request, model) if request.memory != "off" else None


class Turn:
    """One request's reading of the memories as they were when it began, and what it will leave behind.

    Of each token that is read for the first time the key is kept (a second reading, after the window has moved on, has
    seen less); they are written when the turn is finished, and never of one that was not. `begun`: what the model keeps
    of all that was said before.
    """

    def __init__(self, memories: Memories, request: Request, model: Model):
        self._memories, self._writes, self._first = memories, request.memory == "read-write", request.turn
        self._said = memories.conversations(request.namespace, self._writes)
        self._model, self.begun = model, carried(model, self._said)
        self._said.users += 1
        self._before, self._spoken = self._said.clock, len(self._said) > 0
        self._read, self._keys = 0, list[np.ndarray]()

    def note(self, hidden_TD: Tensor, read: int) -> None:
        """The hidden states of tokens that were read for the first time: the last of the first `read` of the text."""
        if self._writes:
            self._keys.append(to_key(hidden_TD).cpu().numpy())
            self._read = read

    def mix(self, logits_V: Tensor, hidden_D: Tensor) -> Tensor:
        """The logits of the next token with what is remembered mixed in, (V), behind a hidden state; where nothing is,
        or where nothing of it counts, as they are. Mixed ones are ln p + ln sum exp(logits): as far above and below 0
        as the model's own, which a repetition penalty treats differently.
        """
        gate = self._memories.gate
        if not gate.share:
            return logits_V
        # As `to_key`, which calls more operations than so few numbers are worth.
        query_1D = hidden_D[None].float().cpu().numpy()
        neighbours = self._search(query_1D / max(math.sqrt(float(query_1D[0] @ query_1D[0])), 1e-12))
        return logits_V if neighbours is None else mix_logits(logits_V, neighbours, gate)

    def _search(self, query_1D: np.ndarray) -> Neighbours | None:
        """The nearest of both memories together; conversations as they were when the turn began. None of two empty
        ones.
        """
        parts, store = [], self._memories.store
        if self._spoken:
            found = self._said.search(query_1D, NEIGHBOURS, self._before)
            parts.append([found.similarity, found.value, found.weight])
        if store is not None and len(store):
            similarity_1k, entry_1k = store.find(query_1D, NEIGHBOURS)
            parts.append([similarity_1k, store.values_of(entry_1k), store.weights_of(entry_1k)])
        if not parts:
            return None
        columns = parts[0]
        if len(parts) == 2:
            columns = [np.concatenate(part, axis=1) for part in zip(*parts, strict=True)]
            nearest = np.argsort(-columns[0], axis=1, kind="stable")[:, :NEIGHBOURS]
            columns = [np.take_along_axis(column, nearest, axis=1) for column in columns]
        similarity, value, weight = map(torch.from_numpy, columns)
        return Neighbours(similarity=similarity, value=value, weight=weight)

    def finish(self, tokens: Sequence[int]) -> None:
        """Remember a finished turn: its text from `Request.turn` on, as far as the namespace does not remember it yet.

        A text that goes on from a remembered document becomes a part of it; one that only begins like it is a document
        of its own from where they part. Raises `StorageError` when the disk refuses, and `LockedError` where another
        process writes the namespace.
        """
        if not self._writes:
            return
        if not self._said.write:
            raise LockedError(f"memory '{self._said.folder.name}': another process writes it, and it is only read here")
        known, document = find_beginning(self._said.texts, np.asarray(tokens, dtype=np.int64))
        first = self._read - sum(map(len, self._keys))
        start, end = max(self._goes_on(known), first), min(self._read, len(tokens) - 1)
        if end > start:
            key_TD = np.concatenate(self._keys)[start - first : end - first]
            document = self._said.begin() if document is None else document
            self._said.append(document, list(tokens[start : end + 1]), key_TD, start)
            carried(self._model, self._said)

    def close(self) -> None:
        """The request has ended, one way or another."""
        self._said.users -= 1

    def _goes_on(self, known: int) -> int:
        """From where a text is new of which so many positions are known: not before this turn, but for the border to a
        remembered one: its last token, which is known as what follows another, and its end, which is none of its text.
        """
        return known if known and self._first - known <= 2 else self._first


def find_beginning(texts: Texts, tokens_T: np.ndarray) -> tuple[int, int | None]:
    """How many positions of a text are said already, as they stand in one document, and the number of that document
    if all of it are known positions of the text: then the text goes on from it.
    """
    document_S, index_S = np.unique(texts.document, return_inverse=True)
    if not len(document_S) or len(tokens_T) < 2:
        return 0, None
    position_S = np.minimum(texts.position, len(tokens_T) - 2)
    same_S = (texts.position == position_S) & (tokens_T[position_S] == texts.token)
    same_S &= tokens_T[position_S + 1] == texts.value
    parting = np.full(len(document_S), np.iinfo(np.int64).max)
    np.minimum.at(parting, index_S[~same_S], texts.position[~same_S])
    known = np.zeros(len(document_S), dtype=np.int64)
    shared_S = same_S & (texts.position < parting[index_S])
    np.maximum.at(known, index_S[shared_S], texts.position[shared_S] + 1)
    whole = (known > 0) & (parting == np.iinfo(np.int64).max)
    # Of equally long beginnings rather a document that the text goes on from.
    best = int(np.argmax(2 * known + whole))
    return int(known[best]), int(document_S[best]) if whole[best] else None
