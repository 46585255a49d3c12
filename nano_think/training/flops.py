"""What a training costs in floating-point operations: one rule for all that are compared.

Counted are the matrix products of a step, forward and backward, as `training.estimate` counts them. A scan that is no
matrix product and everything elementwise are not.
"""

from typing import TYPE_CHECKING

import torch

from nano_think.data.loader import Batches
from nano_think.training.estimate import flops_per_token
from nano_think.training.objectives import Objective

if TYPE_CHECKING:
    from accelerate import Accelerator


def count_flops(objective: Objective, windows: Batches, accelerator: "Accelerator") -> float:
    """Floating-point operations of a step per token, counted on the loader's first window.

    An objective may draw how much it computes, as the diffuser draws its blocks: then it is the mean over the cases. No
    random stream, buffer or gradient is changed.
    """
    objective.to(accelerator.device)
    window_T1 = torch.from_numpy(windows.batch(0, 0, windows.batch_size)[0])
    with torch.random.fork_rng():
        return sum(share * flops_per_token(objective, window_T1, accelerator) for share in objective.cases())
