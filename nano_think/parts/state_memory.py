"""State memory: what the text before the window was about, in O(log T) vectors, for any number of turns and sessions.

The text is read in segments of a few tokens. A segment leaves a summary of a few slots, summaries stand in columns like
the digits of a number (`nn/columns.py`), and every token reads those of the segments before its own. What is written
depends on a few tokens alone and not on what the model thought of them, so the state is a function of the text: the
same however it was cut into windows, turns and sessions.

B batch, T tokens, P taps, S slots of a summary, D model width, N heads, H head width, K places of a column, C columns,
M summaries, R rows of a step
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention, silu

from nano_think.nn import columns
from nano_think.nn.cache import Rows, Slot, Span, Trail
from nano_think.nn.columns import Column
from nano_think.nn.documents import document_starts
from nano_think.nn.linear import linear
from nano_think.parts import PARTS, Part, PartConfig

NONE = -2
"""The document of what there is not; no text and no padding has this number."""
KEPT = "length", "last", "open"


@dataclass(frozen=True, kw_only=True, slots=True)
class StateMemoryConfig(PartConfig):
    """Summaries of what was read."""

    segment: int = 16
    """Tokens that leave one summary (tokens)."""
    slots: int = 4
    """Vectors of a summary (vectors)."""
    base: int = 4
    """Summaries of a column that become one of the next column (summaries)."""
    columns: int = 10
    """Columns; what the last one has no place for is forgotten, after segment * base^columns tokens at the earliest.
    One column is a queue of the `base` newest segments (columns)."""
    heads: int = 4
    """Heads that read (heads)."""
    taps: int = 3
    """Tokens that are written, and asked for, together: the last ones (tokens)."""
    cut: float = 0.25
    """Share of the windows of a training in which the body does not see what is before a place in the middle, so that
    it has to be remembered (0 to 1)."""

    def __post_init__(self) -> None:
        if min(self.segment, self.slots, self.columns, self.heads, self.taps) < 1 or self.base < 2:
            raise ValueError("segment, slots, columns, heads and taps: wanted at least 1; base: at least 2")
        if not 0 <= self.cut <= 1:
            raise ValueError(f"cut: wanted 0 to 1, got {self.cut}")


class State(NamedTuple):
    """What is kept of each row's open document, whatever its length: how many tokens it has, (B), its last tokens
    (B, P - 1, D), the sum of its open segment (B, S, D), and its columns (B, C, K, S, D), of which its length tells
    what stands there.
    """

    length_B: Tensor
    last_BPD: Tensor
    open_BSD: Tensor
    columns_BCKSD: Tensor


@PARTS.register("state_memory")
class StateMemory(Part):
    """x' = x + O attention(q(f), summaries), f_t = SiLU(W [x_t, ..., x_{t - P + 1}]).

    A token adds sigmoid(g(f)) softmax_s(a(f)) U f to slot s of its segment's sum; a full column's summaries s_k become
    sum_k 2 sigmoid(G n(s_k)) s_k, with n(s) = s / sqrt(1 + mean(s^2)), at first their plain sum.
    """

    Config = StateMemoryConfig
    remembers = True

    def __init__(self, config: StateMemoryConfig, width: int, vocabulary: int):
        super().__init__()
        assert width % config.heads == 0, f"width {width} does not divide into {config.heads} heads that read"
        self.config, self.width = config, width
        self.together = linear(config.taps * width, width)
        self.address, self.written = nn.Linear(width, config.slots + 1), linear(width, width)
        self.kept = linear(width, width, zero=True)
        self.asked, self.key, self.value = (linear(width, width) for _ in range(3))
        self.told = linear(width, width, zero=True)

    def read(self, x_BTD: Tensor, tokens_BT: Tensor, documents_BT: Tensor) -> Tensor:
        nobody_B = torch.zeros(len(x_BTD), dtype=torch.bool, device=x_BTD.device)
        return self._read(x_BTD, documents_BT, self._empty(len(x_BTD), 0, x_BTD.device), nobody_B)[0]

    def hide(self, documents_BT: Tensor, tokens_BT: Tensor) -> Tensor:
        """While training a share of the windows is cut in their middle half: which and where, their tokens decide."""
        T = documents_BT.shape[1]
        if not (self.training and self.config.cut) or T < 4:
            return documents_BT
        drawn_B = torch.tensor([zlib.crc32(row.tobytes()) for row in tokens_BT.cpu().numpy()])
        place_B = T // 4 + drawn_B // 1000 % (T // 2)
        place_B = torch.where(drawn_B % 1000 < 1000 * self.config.cut, place_B, T).to(documents_BT.device)
        behind_BT = torch.arange(T, device=documents_BT.device) >= place_B[:, None]
        return 2 * documents_BT + behind_BT

    def start(self, batch: int, device: torch.device | str) -> "StateCache":
        return StateCache(self._empty(batch, self.config.columns, device))

    def extend_read(self, x_BTD: Tensor, tokens_BT: Tensor, span: Span, cache: "StateCache") -> Tensor:
        goes_on_B = torch.full((len(x_BTD),), cache.carried, device=x_BTD.device)
        if span.first:
            goes_on_B = span.documents_BS[:, span.first - 1] == span.documents_BT[:, 0]
        y_BTD, cache.state = self._read(x_BTD, span.documents_BT, cache.state, goes_on_B)
        return y_BTD

    def advance_read(self, x_RD: Tensor, tokens_R: Tensor, rows: Rows, cache: "StateCache") -> Tensor:
        def step(x_RD: Tensor, rows: Rows) -> Tensor:
            kept = State(*(part[rows.slot_R] for part in cache.state))
            documents_R1 = torch.zeros_like(rows.slot_R)[:, None]
            y_R1D, new = self._read(x_RD[:, None], documents_R1, kept, ~rows.fresh_R)
            for part, own in zip(cache.state, new, strict=True):
                part[rows.slot_R] = own
            return y_R1D[:, 0]

        return cache.trail.in_turn(step, x_RD, rows, cache.state)

    def carried(self, cache: "StateCache") -> dict[str, Tensor]:
        """Of a cache of one row: its state, of the columns only those that hold something."""
        state = cache.state._asdict()
        state["columns_BCKSD"] = state["columns_BCKSD"][:, : self._in_use(int(cache.state.length_B.max()))].contiguous()
        return {name.rpartition("_")[0]: part.clone() for name, part in state.items()}

    def carry(self, cache: "StateCache", kept: Mapping[str, Tensor]) -> None:
        parts = cache.state
        columns_BCKSD = torch.zeros_like(parts.columns_BCKSD)
        columns_BCKSD[:, : kept["columns"].shape[1]] = kept["columns"]
        length_B, last_BPD, open_BSD = (kept[name].clone().to(columns_BCKSD.device) for name in KEPT)
        cache.state, cache.carried = State(length_B, last_BPD, open_BSD, columns_BCKSD), True

    def _empty(self, batch: int, columns: int, device: torch.device | str) -> State:
        config, length_B = self.config, torch.zeros(batch, dtype=torch.long, device=device)
        sizes = (config.taps - 1,), (config.slots,), (columns, config.base, config.slots)
        last, begun, standing = (torch.zeros(batch, *size, self.width, device=device) for size in sizes)
        return State(length_B, last, begun, standing)

    def _in_use(self, tokens: int) -> int:
        """How many columns hold anything of a text of so many tokens."""
        found, size = 0, self.config.segment
        while size <= tokens and found < self.config.columns:
            found, size = found + 1, size * self.config.base
        return found

    def _read(self, x_BTD: Tensor, documents_BT: Tensor, before: State, goes_on_B: Tensor) -> tuple[Tensor, State]:
        """What new tokens are told, and the state behind them. goes_on_B: whether the first of them belongs to the
        document that the state before is of.
        """
        T = x_BTD.shape[1]
        begin_BT = document_starts(documents_BT)
        length_B = before.length_B * goes_on_B
        offset_BT = torch.arange(T, device=x_BTD.device) - begin_BT + length_B[:, None] * (begin_BT == 0)
        f_BTD, last_BPD = self._together(x_BTD, offset_BT, before.last_BPD)
        first_B = torch.where(goes_on_B, documents_BT[:, 0], NONE)
        summaries, open_BSD = self._summaries(f_BTD, offset_BT, documents_BT, before.open_BSD)
        longest = T + int(length_B.max()) if before.columns_BCKSD.shape[1] else T
        stack = self._stack(summaries, before, length_B, first_B, longest)
        y_BTD = x_BTD + self._told(f_BTD, stack, offset_BT, documents_BT).to(x_BTD.dtype)
        length_B = offset_BT[:, -1] + 1
        left_BCKSD = self._left(stack, before.columns_BCKSD, length_B, documents_BT[:, -1])
        return y_BTD, State(length_B, last_BPD, open_BSD, left_BCKSD)

    def _together(self, x_BTD: Tensor, offset_BT: Tensor, last_BPD: Tensor) -> tuple[Tensor, Tensor]:
        """f of each token, (B, T, D), and the last tokens for what follows."""
        T, back = x_BTD.shape[1], self.config.taps - 1
        x_BXD = torch.cat([last_BPD, x_BTD.float()], dim=1)
        taps = [x_BXD[:, back - n : back - n + T] * (offset_BT >= n)[..., None] for n in range(back + 1)]
        return silu(self.together(torch.cat(taps, dim=-1))).float(), x_BXD[:, T:]

    def _summaries(
        self, f_BTD: Tensor, offset_BT: Tensor, documents_BT: Tensor, open_BSD: Tensor
    ) -> tuple[Column, Tensor]:
        """The summaries of the segments that end here, and the sum of the one that does not."""
        T, L = f_BTD.shape[1], self.config.segment
        address_BTS, gate_BT1 = self.address(f_BTD).float().split([self.config.slots, 1], dim=-1)
        weight_BTS = address_BTS.softmax(-1) * gate_BT1.sigmoid()
        value_BTD = self.written(f_BTD).float()
        end_BM = columns.find_ends(offset_BT, L)
        last_BM = end_BM.clamp_max(T - 1)
        place_BML = last_BM[..., None] - torch.arange(L, device=end_BM.device)
        own_BML = (place_BML >= 0) & (end_BM < T)[..., None]
        place_BX = place_BML.clamp_min(0).flatten(1)
        weight_BMLS = columns.pick(weight_BTS, place_BX).unflatten(1, place_BML.shape[1:]) * own_BML[..., None]
        value_BMLD = columns.pick(value_BTD, place_BX).unflatten(1, place_BML.shape[1:])
        # A segment that began before this piece has left its sum; there is one at most, the first to end.
        begun_BM = place_BML[..., -1] < 0
        sum_BMSD = weight_BMLS.transpose(-1, -2) @ value_BMLD + open_BSD[:, None] * begun_BM[..., None, None]
        count_BM = torch.where(end_BM < T, (offset_BT.gather(1, last_BM) + 1) // L, 0)
        return Column(sum_BMSD, count_BM, documents_BT.gather(1, last_BM)), self._open(
            weight_BTS, value_BTD, (offset_BT[:, -1] + 1) % L, open_BSD
        )

    @staticmethod
    def _open(weight_BTS: Tensor, value_BTD: Tensor, rest_B: Tensor, before_BSD: Tensor) -> Tensor:
        """The sum of the last `rest_B` tokens, (B, S, D), with what was begun where that is more than there are."""
        T = weight_BTS.shape[1]
        open_BT1 = (torch.arange(T, device=rest_B.device) >= T - rest_B[:, None])[..., None]
        sum_BSD = (weight_BTS * open_BT1).transpose(-1, -2) @ value_BTD
        return sum_BSD + before_BSD * (rest_B > T)[:, None, None]

    def _stack(self, column: Column, before: State, length_B: Tensor, first_B: Tensor, tokens: int) -> list[Column]:
        """All columns that a text of so many tokens needs: what stood in each before, and what came now."""
        found, base = [], self.config.base
        for place in range(self._in_use(tokens)):
            left_BKSD = self._column(before.columns_BCKSD, place)
            count_BK = columns.newest(length_B // self._size(place), base)
            earlier = Column(left_BKSD, count_BK, first_B[:, None].expand_as(count_BK))
            found.append(column.behind(earlier))
            column = columns.full(column, earlier, base, self._merge)
        return found

    def _merge(self, summary_BMKSD: Tensor) -> Tensor:
        """One summary of K, (B, M, S, D)."""
        return (2 * self.kept(soften(summary_BMKSD)).float().sigmoid() * summary_BMKSD).sum(dim=2)

    def _told(self, f_BTD: Tensor, stack: list[Column], offset_BT: Tensor, documents_BT: Tensor) -> Tensor:
        """What the summaries before each token's own segment tell it, (B, T, D)."""
        if not stack:
            return torch.zeros_like(f_BTD)
        seen_BTX = torch.cat([self._seen(place, one, offset_BT, documents_BT) for place, one in enumerate(stack)], -1)
        slots_BYD = soften(torch.cat([one.summary_BMSD for one in stack], dim=1).flatten(1, 2))
        q_BNTH, k_BNYH, v_BNYH = (
            map_(x).unflatten(-1, (self.config.heads, -1)).transpose(1, 2)
            for map_, x in ((self.asked, f_BTD), (self.key, slots_BYD), (self.value, slots_BYD))
        )
        # A key and a value of zeros, for who finds nothing.
        k_BNYH, v_BNYH = (pad(x, (0, 0, 1, 0)) for x in (k_BNYH, v_BNYH))
        seen_BTY = pad(seen_BTX.repeat_interleave(self.config.slots, dim=-1), (1, 0), value=True)
        found_BNTH = scaled_dot_product_attention(q_BNTH, k_BNYH, v_BNYH, attn_mask=seen_BTY[:, None])
        return self.told(found_BNTH.transpose(1, 2).flatten(2))

    def _seen(self, place: int, column: Column, offset_BT: Tensor, documents_BT: Tensor) -> Tensor:
        """Which summaries of a column each token reads, (B, T, X)."""
        total_BT = offset_BT // self._size(place)
        there_BTX = columns.stands(column.count_BM, total_BT, self.config.base, self._is_last(place))
        return there_BTX & (column.document_BM[:, None] == documents_BT[..., None])

    def _left(self, stack: list[Column], before_BCKSD: Tensor, length_B: Tensor, last_B: Tensor) -> Tensor:
        """The columns behind these tokens, whose last ones are of the documents `last_B`."""
        kept = [
            columns.keep(one, length_B // self._size(place), last_B, self.config.base, self._is_last(place))
            for place, one in enumerate(stack[: before_BCKSD.shape[1]])
        ]
        return torch.cat([torch.stack(kept, dim=1), before_BCKSD[:, len(kept) :]], dim=1) if kept else before_BCKSD

    def _column(self, columns_BCKSD: Tensor, place: int) -> Tensor:
        """A column, or an empty one where none is kept, (B, K, S, D)."""
        if place < columns_BCKSD.shape[1]:
            return columns_BCKSD[:, place]
        return columns_BCKSD.new_zeros(len(columns_BCKSD), *columns_BCKSD.shape[2:])

    def _size(self, place: int) -> int:
        """Tokens of a summary in a column."""
        return self.config.segment * self.config.base**place

    def _is_last(self, place: int) -> bool:
        return place == self.config.columns - 1


class StateCache:
    """The state of every row, and whether it was there before the first token was read."""

    def __init__(self, state: State):
        self.state, self.carried, self.trail = state, False, Trail()

    def join(self, one: "StateCache", slot: Slot) -> None:
        """Keep in a slot what a cache of one row has read."""
        for mine, other in zip(self.state, one.state, strict=True):
            mine[slot.number] = other[0]

    def rewind(self, tokens: int) -> None:
        """Take the last tentative tokens back."""
        self.trail.rewind(tokens, self.state)


def soften(summary: Tensor) -> Tensor:
    """s / sqrt(1 + mean(s^2)): small ones as they are, large ones of unit size."""
    return summary * (1 + (summary**2).mean(dim=-1, keepdim=True)).rsqrt()
