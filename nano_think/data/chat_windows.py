"""Whole chats packed into windows: none is cut that fits, and none sees another, for each opens with a start token.

B windows in a batch, T tokens predicted per window
"""

import bisect
import functools
from collections.abc import Iterator, Sequence

import numpy as np

from nano_think.core.errors import InputError
from nano_think.core.rng import branch
from nano_think.data.loader import Batches
from nano_think.data.tokens import TokenSet


class ChatWindows(Batches):
    """Every epoch has the same windows in another order: chats that share a window do not see each other, so it says
    nothing which ones do. What is left of a window is start tokens, which nobody predicts.
    """

    def __init__(self, chats: TokenSet, window: int, batch: int, seed: int):
        """A chat longer than T + 1 tokens gives its first T + 1. Raises `InputError` where there is no chat."""
        lengths = np.minimum(chats.documents.column("tokens").to_numpy(), window + 1)
        if not len(lengths):
            raise InputError("no chat to learn from; give more chats, or lower the fractions that are held out")
        self.packs = pack(lengths.tolist(), window + 1)
        super().__init__(len(self.packs), window, batch, seed, recut=False)
        self.tokens, self.start_token = chats.tokens, int(chats.tokens[0])
        self.offsets, self.lengths = chats.documents.column("offset").to_numpy(), lengths
        self._order = functools.lru_cache(maxsize=2)(self._draw)

    @property
    def filled(self) -> float:
        """The share of the windows' places that hold a chat's token."""
        return float(self.lengths.sum()) / (len(self.packs) * (self.window + 1))

    def _draw(self, epoch: int) -> np.ndarray:
        random = np.random.Generator(np.random.PCG64(branch(self.seed, "windows", epoch)))
        return random.permutation(self.windows_per_epoch)

    def distinct(self) -> Iterator[np.ndarray]:
        return map(self._at, range(self.windows_per_epoch))

    def repeats(self, steps: int) -> int:
        return max(0, steps * self.batch_size - self.windows_per_epoch)

    def _window(self, epoch: int, place: int) -> np.ndarray:
        return self._at(int(self._order(epoch)[place]))

    def _at(self, index: int) -> np.ndarray:
        window, at = np.full(self.window + 1, self.start_token, dtype=np.int64), 0
        for chat in self.packs[index]:
            offset, length = int(self.offsets[chat]), int(self.lengths[chat])
            window[at : at + length] = self.tokens[offset : offset + length]
            at += length
        return window


def pack(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Indices of lengths in groups of at most `room` in all: each, the longest first, where it leaves the least."""
    groups: list[list[int]] = []
    rooms: list[tuple[int, int]] = []
    for index in sorted(range(len(lengths)), key=lambda one: (-lengths[one], one)):
        place = bisect.bisect_left(rooms, (lengths[index], -1))
        left, group = rooms.pop(place) if place < len(rooms) else (room, len(groups))
        if group == len(groups):
            groups.append([])
        groups[group].append(index)
        bisect.insort(rooms, (left - lengths[index], group))
    return groups
