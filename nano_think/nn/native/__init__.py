"""The compiled kernels of layers and heads on a CPU, where they can be had.

They are built at the first use (`build.py`) and used from then on; where there is no compiler, or anything else is in
the way, the plain forms do the work and one line says why. NANO_THINK_NO_KERNEL=1 forbids them.
"""

import os
import sys
import threading
from typing import NamedTuple

import torch
from torch import Tensor

from nano_think.core.errors import NanoThinkError
from nano_think.nn.native.build import CannotBuildError, build_kernels
from nano_think.nn.native.ops import register

SWITCH = "NANO_THINK_NO_KERNEL"


class Kernels(NamedTuple):
    """Whether the kernels are in use, and why."""

    there: bool
    reason: str


_guard = threading.Lock()
_found: Kernels | None = None


def kernels() -> Kernels:
    """The kernels of this process, built and loaded at the first call."""
    global _found
    with _guard:
        if _found is None:
            _found = _load()
    return _found


# What torch.compiler.assume_constant_result does, which would import the whole compiler, a second of every command.
kernels._dynamo_marked_constant = True  # type: ignore[attr-defined]


def have_kernel(x: Tensor) -> bool:
    """Whether there are kernels for numbers like these: fp32 or bf16, on a CPU."""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16) and kernels().there


def _load() -> Kernels:
    if os.environ.get(SWITCH) == "1":
        return Kernels(False, f"plain torch ({SWITCH}=1)")
    try:
        torch.ops.load_library(build_kernels())
        register()
    except (CannotBuildError, NanoThinkError, OSError) as error:
        print(f"nano_think: layers run in plain torch: {error}", file=sys.stderr)
        return Kernels(False, f"plain torch ({error})")
    return Kernels(True, "compiled kernel")
