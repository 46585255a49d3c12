"""A conversation as the tokens that a model goes on from."""

from collections.abc import Sequence

from nano_think.core.errors import InputError
from nano_think.data.tokenizer import Tokenizer

Messages = Sequence[dict[str, str]]


def encode_fitting(messages: Messages, tokenizer: Tokenizer, window: int) -> list[int]:
    """The ids of messages, up to where the assistant speaks, in at most `window` tokens: what was said first is left
    out until the rest fits. System messages and the last one stay; `InputError` tells both numbers where they alone
    are too long.
    """
    left = list(messages)
    while True:
        ids, _ = tokenizer.encode_chat(left, add_generation_prompt=True)
        if len(ids) <= window:
            return ids
        oldest = next((n for n, message in enumerate(left[:-1]) if message["role"] != "system"), None)
        if oldest is None:
            raise InputError(f"the context holds {window} tokens, and the message has {len(ids)}; shorten it")
        del left[oldest]
