"""Models compute where their weights lie."""

import contextlib

import pytest
import torch
from torch import Tensor

from nano_think.models.chat import Model, remembers
from nano_think.nn.cache import Rows
from tests.tiny import MODELS, START, tiny_model


def all_tensors(model: Model, device: str) -> list[Tensor]:
    """What reading at once, reading behind a cache and the steps of two texts give on a device."""
    tokens_BT = torch.full((2, 5), START, device=device)
    cache, one, routed = model.start(2, 16), model.start(1, 16), model(tokens_BT)
    read = model.extend(tokens_BT[:1], one)
    cache.join(1, one)
    at_3R = torch.tensor([[0, 1], [5, 5], [0, 0]], device=device)
    step = model.advance(tokens_BT[:, 0], Rows(at_3R, end=6), cache)
    nats = model.nll(routed, tokens_BT)
    return [*routed, *read, *step, nats, model.logits(read), model.logits_of_rows(step)]


@pytest.mark.parametrize("name", MODELS)
def test_nothing_is_left_behind_on_the_cpu(name: str, monkeypatch):
    """On a device that computes shapes alone: as a GPU it takes no tensor of the CPU's beside its own, and it has
    no values that one could wait for.
    """
    model = tiny_model(name).to("meta")
    # Which knows nothing of that device.
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    if remembers(model):
        # How many columns it keeps is how long the text is, for which its device is asked.
        monkeypatch.setattr(Tensor, "__int__", lambda _: 5)
    with torch.inference_mode():
        assert {tensor.device.type for tensor in all_tensors(model, "meta")} == {"meta"}
