"""What a chat model answers, many questions at a time: the likeliest token each time, behind one cache.

B rows in a batch, T tokens, V vocabulary
"""

from collections.abc import Mapping, Sequence

import torch

from nano_think.data.tokenizer import Tokenizer
from nano_think.data.tokenizer_chat import ASSISTANT_END
from nano_think.models.chat import Model
from nano_think.nn.cache import pad_left

Messages = Sequence[Mapping[str, str]]
ROWS = 64


def answers(model: Model, tokenizer: Tokenizer, chats: Sequence[Messages], window: int, most: int) -> list[str]:
    """The assistant's next message in each chat, of at most `most` tokens, drawn greedily.

    Of a chat that leaves no room for them in the window only the end is read.
    """
    ends = {tokenizer.special[ASSISTANT_END], model.start_token}
    prompts = [tokenizer.encode_chat(chat, add_generation_prompt=True)[0] for chat in chats]
    prompts = [
        prompt if len(prompt) + most <= window else prompt[:1] + prompt[most + 1 - window :] for prompt in prompts
    ]
    found = [""] * len(chats)
    order = sorted(range(len(chats)), key=lambda one: (len(prompts[one]), one))
    for first in range(0, len(order), ROWS):
        batch = order[first : first + ROWS]
        for index, ids in zip(batch, _write(model, [prompts[one] for one in batch], most, ends), strict=True):
            found[index] = tokenizer.decode(ids)
    return found


@torch.inference_mode()
def _write(model: Model, prompts: Sequence[Sequence[int]], most: int, ends: set[int]) -> list[list[int]]:
    """Up to `most` greedy tokens behind each prompt, up to one of `ends`."""
    device = model.head.table.device
    tokens_BT, documents_BT = (part.to(device) for part in pad_left(prompts, model.start_token))
    cache, open_rows = model.start(len(prompts), tokens_BT.shape[1] + most), set(range(len(prompts)))
    written: list[list[int]] = [[] for _ in prompts]
    routed = model.extend(tokens_BT, cache, documents_BT)
    for _ in range(most):
        tokens_B = model.logits(routed.last())[:, -1].argmax(dim=-1)
        for row, token in enumerate(tokens_B.tolist()):
            if row in open_rows and token not in ends:
                written[row].append(token)
            else:
                open_rows.discard(row)
        if not open_rows or cache.timeline.left < 1:
            break
        routed = model.extend(tokens_B[:, None], cache)
    return written
