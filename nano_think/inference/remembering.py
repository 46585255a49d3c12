"""What a model thinks behind each token of a text, as a memory keeps it.

T tokens, D model width
"""

import numpy as np
import torch

from nano_think.memory.read import to_key
from nano_think.models.chat import Model


@torch.inference_mode()
def keys_of(model: Model, tokens_T: np.ndarray, window: int) -> np.ndarray:
    """The key behind each token, (T, D); a text longer than the window is read in windows that follow each other."""
    pieces = torch.as_tensor(np.asarray(tokens_T, dtype=np.int64), device=model.head.table.device).split(window)
    return torch.cat([to_key(model(piece[None]).hidden[0]) for piece in pieces]).cpu().numpy()
