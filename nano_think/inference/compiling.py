"""A model's step through `torch.compile`."""

import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from nano_think.models.chat import Model
from nano_think.models.think import Cache, Routed
from nano_think.nn.cache import Rows

Step = Callable[[Tensor, Rows, Cache], Routed]


def compile_step(model: Model, window: int, rows: int) -> Step:
    """`model.advance`, compiled, and tried on a text or two of its own: the seconds that this takes are not those of a
    request. If it fails for any reason, a compiler that is missing among them, `model.advance` itself. One line on
    standard error says how it went.
    """
    started, step = time.monotonic(), torch.compile(model.advance)
    try:
        # One row is compiled for itself; the second time whatever changes becomes a variable.
        for count in range(1, 2 + (rows > 1)):
            _try(model, step, window, count)
    except Exception as error:
        torch._dynamo.reset()
        said = str(error).strip().partition("\n")[0]
        print(f"nano_think: steps are not compiled: {type(error).__name__}: {said[:120]}", file=sys.stderr)
        return model.advance
    print(f"nano_think: steps are compiled ({time.monotonic() - started:.0f} s)", file=sys.stderr)
    return step


@torch.inference_mode()
def _try(model: Model, step: Step, window: int, rows: int) -> None:
    device, cache = model.head.table.device, model.start(rows, window)
    token_11 = torch.full((1, 1), model.start_token, device=device)
    for slot in range(rows):
        one = model.start(1, window)
        model.extend(token_11, one)
        cache.join(slot, one)
    for place in (1, 2, 3):
        at_3R = torch.tensor([(slot, place, 0) for slot in range(rows)], device=device).T.contiguous()
        step(token_11[0].expand(rows).contiguous(), Rows(at_3R, end=place + 1), cache)
