"""Bits per byte of what the assistant says in held-out chats, given all that was said before."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from nano_think.data.tokenizer import Tokenizer
from nano_think.data.tokenizer_chat import CHAT
from nano_think.data.tokens import TokenSet
from nano_think.evaluation.bootstrap import interval, resampled_totals
from nano_think.evaluation.chat.likelihood import Row, nats_of
from nano_think.models.chat import Model


class Talk(NamedTuple):
    """A chat's row, in which the text that the assistant says counts, and nothing else; its bytes; where it is from."""

    row: Row
    bytes: int
    domain: str


def talks(chats: TokenSet, tokenizer: Tokenizer, said: Sequence[np.ndarray], window: int, plain: bool) -> list[Talk]:
    """The chats, up to T + 1 tokens of each; those in which nothing counts are left out.

    The tokens that end a message do not count: no text is in them, and a base has never seen one. plain: with a blank
    line instead of every mark of the template, which is how a base would have read a chat.
    """
    marks, gap = {tokenizer.special[name] for name in CHAT}, tokenizer.encode("\n\n")
    found = []
    columns = (chats.documents.column(name).to_pylist() for name in ("offset", "tokens", "domain"))
    for (offset, length, domain), said_T in zip(zip(*columns, strict=True), said, strict=True):
        ids = chats.tokens[offset : offset + min(length, window + 1)].tolist()
        counted = [bool(one) and token not in marks for token, one in zip(ids, said_T, strict=False)]
        size = sum(len(tokenizer.token_bytes(token)) for token, one in zip(ids, counted, strict=True) if one)
        if size:
            found.append(Talk(_without_marks(ids, counted, marks, gap) if plain else Row(ids, counted), size, domain))
    return found


def _without_marks(ids: list[int], counted: list[bool], marks: set[int], gap: list[int]) -> Row:
    row = Row([], [])
    for token, one in zip(ids, counted, strict=True):
        # A mark at the end of a message and the next one's at its beginning make one gap.
        new = [token] if token not in marks else [] if row.ids[-len(gap) :] == gap or len(row.ids) == 1 else gap
        row.ids.extend(new)
        row.counted.extend([one] * len(new) if token not in marks else [False] * len(new))
    return row


def cost(model: Model, found: Sequence[Talk]) -> np.ndarray:
    """Nats of each talk, (N,)."""
    return np.array(nats_of(model, [talk.row for talk in found]))


def figures(nats: dict[str, np.ndarray], found: Sequence[Talk], seed: int = 0) -> dict[str, Any]:
    """Bits per byte by model, in all and by domain, and the change from each other model to "chat", with intervals over
    chats (percentiles of a paired bootstrap).
    """
    domains = sorted({talk.domain for talk in found})
    parts = {domain: [index for index, talk in enumerate(found) if talk.domain == domain] for domain in domains}
    whole = _figures(nats, found, range(len(found)), seed)
    return whole | {"domains": {domain: _figures(nats, found, part, seed) for domain, part in parts.items()}}


def _figures(nats: dict[str, np.ndarray], found: Sequence[Talk], part: Iterable[int], seed: int) -> dict[str, Any]:
    rows = list(part)
    size_N = np.array([found[index].bytes for index in rows], dtype=float)
    bits_NM = np.stack([values[rows] for values in nats.values()], axis=1) / math.log(2)
    totals = resampled_totals(np.concatenate([bits_NM, size_N[:, None]], axis=1), seed=seed)
    rates_SM = totals[:, :-1] / np.maximum(totals[:, -1:], 1.0)
    rates = dict(zip(nats, (bits_NM.sum(0) / size_N.sum()).tolist(), strict=True))
    names, chat_S = list(nats), rates_SM[:, list(nats).index("chat")]
    models = {
        name: {"bits_per_byte": rate, "interval": interval(rates_SM[:, names.index(name)])}
        for name, rate in rates.items()
    }
    changes = {
        name: {"change": rates["chat"] / rate - 1, "interval": interval(chat_S / rates_SM[:, names.index(name)] - 1)}
        for name, rate in rates.items()
        if name != "chat"
    }
    return {"models": models, "changes": changes, "chats": len(rows), "bytes": int(size_N.sum())}
