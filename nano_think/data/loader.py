"""Windows of tokens in an order that is a pure function of (seed, step): the whole state of a loader is its step."""

# B windows in a batch, T tokens predicted per window, R ranges of neighbouring documents of one domain
import functools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from nano_think.core.errors import InputError
from nano_think.core.rng import branch

if TYPE_CHECKING:
    from nano_think.data.tokens import TokenSet

Balance = Literal["proportional", "equal", "temperature"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lean:
    """One of several readers of a text, each of which leans to domains of its own."""

    reader: int
    """Which of them (0 to readers - 1)."""
    readers: int
    """How many they are."""
    by: float
    """How many times its share in the text a domain of its own has with this reader (above 0)."""

    def domains(self, sizes: Mapping[str, float]) -> tuple[str, ...]:
        """Its own: by size, the largest goes to the first reader, the next to the second, and round again. Where there
        are fewer domains than readers, some have the same.
        """
        by_size = sorted(sizes, key=lambda name: (-sizes[name], name))
        return tuple(by_size[self.reader :: self.readers]) or (by_size[self.reader % len(by_size)],)


def open_windows(
    tokens: "TokenSet", window: int, batch: int, seed: int, balance: Balance = "proportional", temperature: float = 2.0,
    recut: bool = True, lean: Lean | None = None,
) -> "Batches":  # fmt: skip
    """The loader of a split: windows in proportion to the tokens, or each domain with its share of them.

    Without `recut` every epoch has the windows of the first, in another order. A reader that leans has more of some
    domains.
    """
    if balance == "proportional" and lean is None:
        return Windows(tokens.tokens, window, batch, seed, recut)
    domains = domain_ranges(tokens)
    sizes = {name: float(ranges[:, 1].sum()) for name, ranges in domains.items()}
    power = {"proportional": 1.0, "equal": 0.0, "temperature": 1 / temperature}[balance]
    own = lean.domains(sizes) if lean else ()
    weights = {name: size**power * (lean.by if lean and name in own else 1.0) for name, size in sizes.items()}
    return BalancedWindows(tokens.tokens, domains, weights, window, batch, seed, recut)


class Batches(ABC):
    """Batches of T + 1 consecutive tokens: inputs `[:, :-1]`, targets `[:, 1:]`.

    Steps run on over epochs without a gap: every window of an epoch is seen exactly once, also when the batch does not
    divide them.
    """

    def __init__(self, windows: int, window: int, batch: int, seed: int, recut: bool):
        """windows: of an epoch; `window` is T and `batch` is B over all ranks."""
        assert windows > 0 and window > 0 and batch > 0
        self.window, self.batch_size, self.seed, self.recut = window, batch, seed, recut
        self.windows_per_epoch = windows
        self.steps_per_epoch = -(-self.windows_per_epoch // batch)

    def batch(self, step: int, rank: int = 0, world: int = 1) -> np.ndarray:
        """(B / world, T + 1) int64: the rows of `rank` among the B of `step`; `world` must divide B."""
        assert self.batch_size % world == 0 and 0 <= rank < world, (self.batch_size, rank, world)
        places = range(step * self.batch_size + rank, (step + 1) * self.batch_size, world)
        return np.stack([self._window(*divmod(place, self.windows_per_epoch)) for place in places])

    def passes(self, steps: int) -> dict[str, float]:
        """How often the first `steps` steps go over each domain; nothing where the loader knows no domains."""
        return {}

    @abstractmethod
    def distinct(self) -> Iterator[np.ndarray]:
        """Every window that there is, (T + 1,) int64 each, where each epoch has the same ones."""

    @abstractmethod
    def repeats(self, steps: int) -> int:
        """How many windows of the first `steps` steps have come before: none where each epoch is cut anew."""

    @abstractmethod
    def _window(self, epoch: int, place: int) -> np.ndarray:
        """The window at a place of an epoch, (T + 1,) int64."""


class Windows(Batches):
    """Windows of all tokens alike: each domain comes in proportion to its tokens.

    Each epoch cuts the tokens anew, from a random offset below T, and shuffles the windows; window i holds the tokens
    [offset + i * T, offset + i * T + T], so that neighbours share one token and each is predicted once. Without `recut`
    the offset is that of the first epoch.
    """

    def __init__(self, tokens: np.ndarray, window: int, batch: int, seed: int, recut: bool = True):
        super().__init__(_windows_of(len(tokens), window), window, batch, seed, recut)
        self.tokens = tokens
        self._order = functools.lru_cache(maxsize=2)(self._draw)

    def _draw(self, epoch: int) -> tuple[int, np.ndarray]:
        offset, order = draw_cut(len(self.tokens), self.window, branch(self.seed, "windows", epoch))
        return (offset if self.recut or epoch == 0 else self._order(0)[0]), order

    def distinct(self) -> Iterator[np.ndarray]:
        assert not self.recut
        return (self._at(self._order(0)[0], index) for index in range(self.windows_per_epoch))

    def repeats(self, steps: int) -> int:
        return 0 if self.recut else max(0, steps * self.batch_size - self.windows_per_epoch)

    def _window(self, epoch: int, place: int) -> np.ndarray:
        offset, order = self._order(epoch)
        return self._at(offset, int(order[place]))

    def _at(self, offset: int, index: int) -> np.ndarray:
        start = offset + index * self.window
        return self.tokens[start : start + self.window + 1].astype(np.int64)


class BalancedWindows(Batches):
    """Windows of which each domain has a given share, whatever its size.

    An epoch has as many windows as `Windows` makes of the same tokens. Each domain has its share of them, by largest
    remainder and at least one, at places that are drawn anew for every epoch. A window never holds two domains. A
    domain is cut and shuffled as `Windows` does it, and the cut is used up, over the ends of epochs, before the next is
    drawn: no window of a domain comes twice before all of them have come. A domain of at most T tokens is repeated
    until it fills one window. Without `recut` all cuts of a domain have the offset of its first.
    """

    def __init__(
        self, tokens: np.ndarray, domains: Mapping[str, np.ndarray], weights: Mapping[str, float],
        window: int, batch: int, seed: int, recut: bool = True,
    ):  # fmt: skip
        """domains: name -> (R, 2), offset and length of its ranges; weights: name -> its share, up to a factor."""
        assert domains.keys() == weights.keys()
        size = sum(int(ranges[:, 1].sum()) for ranges in domains.values())
        super().__init__(_windows_of(size, window), window, batch, seed, recut)
        self.domains = {
            name: _Domain(tokens, domains[name], window, branch(seed, name), recut) for name in sorted(domains)
        }
        self.slots = apportion([weights[name] for name in self.domains], self.windows_per_epoch)
        self._list = list(self.domains.values())
        self._order = functools.lru_cache(maxsize=2)(self._draw)

    def _draw(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The domain at each place of an epoch, and how many places before it have the same."""
        random = np.random.Generator(np.random.PCG64(branch(self.seed, "domains", epoch)))
        domain = random.permutation(np.repeat(np.arange(len(self.slots)), self.slots))
        earlier = np.empty_like(domain)
        earlier[np.argsort(domain, kind="stable")] = np.concatenate([np.arange(count) for count in self.slots])
        return domain, earlier

    def _window(self, epoch: int, place: int) -> np.ndarray:
        domain, earlier = self._order(epoch)
        owner = int(domain[place])
        return self._list[owner].draw(epoch * int(self.slots[owner]) + int(earlier[place]))

    def distinct(self) -> Iterator[np.ndarray]:
        assert not self.recut
        return (window for domain in self._list for window in domain.distinct())

    def repeats(self, steps: int) -> int:
        """Domains are taken in proportion to their places: off by less than one window each."""
        epochs = 0 if self.recut else steps * self.batch_size / self.windows_per_epoch
        counted = zip(self._list, self.slots.tolist(), strict=True)
        return sum(max(0, int(epochs * slots) - domain.windows) for domain, slots in counted)

    def passes(self, steps: int) -> dict[str, float]:
        epochs = steps * self.batch_size / self.windows_per_epoch
        counted = zip(self.domains.items(), self.slots.tolist(), strict=True)
        return {name: epochs * slots * self.window / domain.size for (name, domain), slots in counted}


class _Domain:
    """One domain's documents, read as if they stood behind one another. Each begins with a start token, so that nobody
    predicts or looks across a seam.
    """

    def __init__(self, tokens: np.ndarray, ranges: np.ndarray, window: int, seed: int, recut: bool):
        self.tokens, self.window, self.seed, self.recut = tokens, window, seed, recut
        self.ends = ranges[:, 1].cumsum()
        self.shift = ranges[:, 0] - (self.ends - ranges[:, 1])
        self.size = int(self.ends[-1])
        self.windows = count_windows(self.size, window)
        self._cut = functools.lru_cache(maxsize=2)(self._draw)

    def _draw(self, number: int) -> tuple[int, np.ndarray]:
        if self.size <= self.window:
            return 0, np.zeros(1, dtype=np.int64)
        offset, order = draw_cut(self.size, self.window, branch(self.seed, "windows", number))
        return (offset if self.recut or number == 0 else self._cut(0)[0]), order

    def distinct(self) -> Iterator[np.ndarray]:
        return (self._at(self._cut(0)[0], index) for index in range(self.windows))

    def draw(self, number: int) -> np.ndarray:
        """The window, (T + 1,), that is the domain's draw `number`, counted from the start of the training."""
        offset, order = self._cut(number // self.windows)
        return self._at(offset, int(order[number % self.windows]))

    def _at(self, offset: int, index: int) -> np.ndarray:
        start = offset + index * self.window
        place = np.arange(start, start + self.window + 1) % self.size
        return self.tokens[place + self.shift[np.searchsorted(self.ends, place, side="right")]].astype(np.int64)


def count_windows(tokens: int, window: int) -> int:
    """Windows of a cut. It must not depend on the offset: what is left over is always less than two windows."""
    return max(1, (tokens - window) // window)


def _windows_of(tokens: int, window: int) -> int:
    """As `count_windows`; `InputError` for fewer than T + 1 tokens."""
    if tokens <= window:
        raise InputError(
            f"{tokens} tokens are fewer than one window of {window} + 1; give more text or a smaller window"
        )
    return count_windows(tokens, window)


def draw_cut(tokens: int, window: int, seed: int) -> tuple[int, np.ndarray]:
    """(offset, permutation of the windows) of one cut through more than T tokens."""
    random = np.random.Generator(np.random.PCG64(seed))
    windows = count_windows(tokens, window)
    spare = tokens - 1 - windows * window
    return int(random.integers(min(window, spare + 1))), random.permutation(windows)


def domain_ranges(tokens: "TokenSet") -> dict[str, np.ndarray]:
    """Domain -> (R, 2) int64: offset and length of its ranges of neighbouring documents, in the order of the tokens."""
    names = np.array(tokens.documents.column("domain").to_pylist(), dtype=object)
    offset, length = (tokens.documents.column(name).to_numpy().astype(np.int64) for name in ("offset", "tokens"))
    first = np.flatnonzero(np.append(True, names[1:] != names[:-1])[: len(names)])
    ranges = np.stack([offset[first], np.add.reduceat(length, first) if len(first) else length], axis=1)
    return {name: ranges[names[first] == name] for name in sorted(set(names))}


def apportion(weights: list[float], seats: int) -> np.ndarray:
    """`seats` in proportion to the weights, by largest remainder; nobody goes without one where there are enough."""
    wanted = np.array(weights) / sum(weights) * seats
    given = np.floor(wanted).astype(np.int64)
    given[np.argsort(given - wanted, kind="stable")[: seats - given.sum()]] += 1
    while seats >= len(given) and not given.all():
        given[given.argmax()] -= 1
        given[given.argmin()] += 1
    return given
