"""A conversation as the tokens that a model goes on from."""

import functools
from bisect import bisect_left
from collections.abc import Sequence

from nano_think.core.errors import InputError
from nano_think.data import tokenizer_chat
from nano_think.data.tokenizer import Tokenizer

Messages = Sequence[dict[str, str]]


def encode_fitting(messages: Messages, tokenizer: Tokenizer, window: int) -> list[int]:
    """The ids of messages, up to where the assistant speaks, in at most `window` tokens: what was said first is left
    out until the rest fits. System messages and the last one stay; `InputError` tells both numbers where they alone
    are too long.

    Each text is encoded once, and how many are left out is found by halving: what is read grows with the text, however
    many messages it is cut into.
    """
    encode = functools.cache(tokenizer.encode)
    may_go = [n for n, message in enumerate(messages[:-1]) if message["role"] != "system"]

    def without(count: int) -> list[dict[str, str]]:
        gone = set(may_go[:count])
        return [message for n, message in enumerate(messages) if n not in gone]

    def length(count: int) -> int:
        # The start token, and the one where the assistant speaks.
        return 2 + len(tokenizer_chat.encode(without(count), encode, tokenizer.special)[0])

    count = bisect_left(range(len(may_go)), True, key=lambda count: length(count) <= window)
    if count == len(may_go) and length(count) > window:
        raise InputError(f"the context holds {window} tokens, and the message has {length(count)}; shorten it")
    return tokenizer.encode_chat(without(count), add_generation_prompt=True)[0]


def last_turn(ids: Sequence[int], tokenizer: Tokenizer) -> int:
    """Where the last message of a user begins in the ids of a conversation."""
    start = tokenizer.special[tokenizer_chat.USER]
    return max((place for place, token in enumerate(ids) if token == start), default=0)
