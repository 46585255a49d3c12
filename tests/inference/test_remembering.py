"""Keys of a text, as a memory keeps them."""

import numpy as np
import torch

from nano_think.inference.remembering import keys_of
from nano_think.memory.read import to_key
from tests.tiny import START, WIDTH, draw_tokens, tiny_mixture


def test_keys_are_what_the_model_thinks_in_each_window():
    model, tokens_1T = tiny_mixture(), draw_tokens(1, 11)
    keys_TD = keys_of(model, tokens_1T[0].numpy(), window=8)
    assert keys_TD.shape == (11, WIDTH) and keys_TD.dtype == np.float32
    for first, end in [(0, 8), (8, 11)]:
        wanted = to_key(model(tokens_1T[:, first:end]).hidden[0]).detach()
        torch.testing.assert_close(torch.from_numpy(keys_TD[first:end]), wanted)


def test_one_token_has_a_key():
    assert keys_of(tiny_mixture(), np.array([START]), window=8).shape == (1, WIDTH)
