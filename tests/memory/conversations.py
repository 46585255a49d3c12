"""Small memories of conversations."""

from pathlib import Path

import numpy as np

from nano_think.memory.conversation import LIMIT, Conversations
from nano_think.memory.journal import Owner

WIDTH = 4
OWNER = Owner(model="a" * 64, tokenizer="b" * 64, width=WIDTH)


def keys(rows: int, seed: int = 0) -> np.ndarray:
    """Unit vectors, (rows, 4)."""
    keys_TD = np.random.default_rng(seed).normal(size=(rows, WIDTH)).astype(np.float32)
    return keys_TD / np.linalg.norm(keys_TD, axis=1, keepdims=True)


def open_memory(root: Path, *, write: bool = True, owner: Owner = OWNER, limit: int = LIMIT) -> Conversations:
    return Conversations(root / "memory" / owner.model / "alice", owner, write=write, limit=limit)


def remember(memory: Conversations, n: int, rows: int = 3) -> int:
    """Turn `n` of document `n`: tokens 1000 n, 1000 n + 1, ..."""
    return memory.append(n, range(1000 * n, 1000 * n + rows + 1), keys(rows, seed=n))


def tokens_of(memory: Conversations) -> list[int]:
    return memory.entries.token.tolist()
