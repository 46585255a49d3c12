"""What the turns of a memory say, whether or not sleep has left their tokens an entry.

S tokens that others follow
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np

from nano_think.memory.turn import Turn


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Columns of S tokens that another follows, the oldest first: document (S) and position (S), where it stands; time
    (S), increasing; token (S), its id; value (S), the id of the token that came next.
    """

    document: np.ndarray
    position: np.ndarray
    time: np.ndarray
    token: np.ndarray
    value: np.ndarray

    def __len__(self) -> int:
        return len(self.token)

    @classmethod
    def of(cls, turn: Turn) -> "Texts":
        place_S = np.arange(len(turn.tokens) - 1)
        tokens_S = turn.tokens.astype(np.int64)
        return cls(
            document=np.full(len(place_S), turn.document), position=turn.first + place_S, time=turn.time + place_S,
            token=tokens_S[:-1], value=tokens_S[1:],
        )  # fmt: skip

    @classmethod
    def join(cls, parts: Iterable["Texts"]) -> "Texts":
        nothing, parts = np.zeros(0, dtype=np.int64), list(parts)
        return cls(**{f.name: np.concatenate([nothing, *(getattr(p, f.name) for p in parts)]) for f in fields(cls)})
