"""Where and how numbers are computed: device, threads, precision; each choice is found here and told with its
reason.
"""

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from nano_think.core.config import Config

DType = Literal["auto", "float32", "bfloat16"]
Compile = Literal["auto", "on", "off"]
Device = Literal["auto", "cpu", "cuda", "mps"]
# How names of GPUs begin.
GPU = "GPU-"
# A product whose relative error is smaller was not computed in half precision.
EXACT = 1e-5


@dataclass(frozen=True, kw_only=True, slots=True)
class ComputeConfig(Config):
    """How a training computes. Threads and precision change the last bits of a result, so they belong to a run's
    key.
    """

    device: Device = "auto"
    """Device; "auto" takes CUDA, then MPS, then the CPU."""
    dtype: DType = "auto"
    """Precision of matrix products; "auto" is bfloat16 where a GPU or CPU multiplies in it, float32 elsewhere."""
    threads: int = 0
    """CPU threads per training; 0 shares the cores among the experts (threads)."""
    processes: int = 1
    """Processes per training, which share every batch and the threads, on as many GPUs if there are any (processes)."""
    fast_matmul: bool = True
    """Route fp32 matrix products of a CPU through oneDNN where a start-up check finds them as exact (error below
    1e-5).
    """
    compile: Compile = "auto"
    """torch.compile for the layers of what is trained; "auto" is on for CUDA and off elsewhere, where it takes longer
    than it saves in a short training. Where it fails, the training goes on without it and says so."""

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise ValueError(f"threads: wanted 0 or more, got {self.threads}")
        if self.processes < 1:
            raise ValueError(f"processes: wanted at least 1, got {self.processes}")

    @property
    def threads_per_process(self) -> int:
        """CPU threads of each process of a training; 0 leaves them to torch."""
        return max(1, self.threads // self.processes) if self.threads else 0


def pick_device(wanted: str) -> torch.device:
    """The device that `wanted` ("auto", "cpu", "cuda", "mps") stands for on this machine."""
    if wanted != "auto":
        return torch.device(wanted)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def pick_dtype(wanted: DType, device: torch.device) -> str:
    """The precision of matrix products that `wanted` stands for: "auto" is bfloat16 where the device multiplies in it
    (CUDA; a CPU with AMX, AVX-512-BF16 or Arm's BF16, which would only emulate it otherwise), float32 elsewhere.
    """
    if wanted != "auto":
        return wanted
    capable = device.type == "cuda" and torch.cuda.is_available() and torch.cuda.get_device_capability(device)[0] >= 8
    if device.type == "cpu":
        capable = any(torch.cpu.get_capabilities().get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))
    return "bfloat16" if capable else "float32"


def pick_compile(wanted: Compile, device: torch.device) -> Compile:
    """What `wanted` stands for: "auto" is "on" for CUDA, "off" elsewhere."""
    return wanted if wanted != "auto" else "on" if device.type == "cuda" else "off"


@contextlib.contextmanager
def without_numbers() -> Iterator[None]:
    """Models that are built in the block have shapes: what they would be filled with at random takes no memory, and
    nothing is drawn.
    """
    with _Unfilled():
        yield


class _Unfilled(TorchFunctionMode):
    """What is to be filled lies on the device "meta", and stays unfilled. All else is computed as ever: under
    `torch.device("meta")` the least arithmetic imports PyTorch's compiler, more than a second of every command.
    """

    FILL = tuple(getattr(owner, name) for owner in (torch.Tensor, nn.init) for name in ("normal_", "uniform_"))

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in self.FILL:
            return args[0] if args else kwargs["tensor"]
        if func in (torch.empty, torch.randn):
            return torch.empty(*args, **kwargs | {"device": "meta"})
        return func(*args, **kwargs)


def gpu_memory() -> dict[str, int]:
    """The GPUs that this process sees, in its order, and the memory of each (bytes). They are called by what is theirs
    in every process, whichever of them it sees; those that share a name, as parts of one, by their place too.
    """
    found: dict[str, int] = {}
    for index in range(torch.cuda.device_count()) if torch.cuda.is_available() else ():
        properties = torch.cuda.get_device_properties(index)
        name = f"{GPU}{properties.uuid}"
        found[f"{name}-{index}" if name in found else name] = properties.total_memory
    return found


def share_threads(wanted: int, trainings: int) -> int:
    """Threads for one of `trainings` that run at once: all cores shared, at least one each."""
    return wanted or max(1, (os.cpu_count() or 1) // max(1, trainings))


def set_up(compute: ComputeConfig, device: torch.device) -> dict[str, Any]:
    """Apply the choices to this process and return them, with reasons, for the log and the manifest."""
    if compute.threads:
        torch.set_num_threads(compute.threads_per_process)
    dtype = pick_dtype(compute.dtype, device)
    chosen = {
        "device": f"{device} ({_why(device.type, pick_device('auto').type)})",
        "dtype": f"{dtype} ({_why_dtype(dtype, pick_dtype('auto', device))})",
        "threads": f"{torch.get_num_threads()} (of {os.cpu_count()} cores)",
        "torch": torch.__version__,
    }
    if compute.processes > 1:
        chosen["processes"] = f"{compute.processes} (as set)"
    if device.type == "cpu":
        chosen["matmul"] = _route_matmul(compute.fast_matmul)
    return chosen


def _why(value: str, usual: str) -> str:
    """The reason for a choice: a setting was settled before it came here, so only its value tells."""
    return "the default here" if value == usual else "as set"


def _why_dtype(value: str, usual: str) -> str:
    if value != usual:
        return "as set"
    return "products are faster in it here" if value == "bfloat16" else "no bfloat16 in this device's products"


def _route_matmul(fast: bool) -> str:
    """Send fp32 products to oneDNN if asked and if it computes them in fp32: with AMX it would round to bfloat16."""
    if not fast or not torch.backends.mkldnn.is_available():
        return "default (as set)" if not fast else "default (there is no oneDNN)"
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    with _trying:
        error = _try_onednn(matmul)
        if error >= EXACT:
            return f"default (oneDNN would err by {error:.0e})"
        matmul.fp32_precision = "bf16"
    return f"oneDNN (error {error:.0e})"


# The setting is the process's own: of two stages that tried it at once, one would take the other's trial for what was
# set before, leave it behind, and round all products from then on.
_trying = threading.Lock()


@functools.cache
def _try_onednn(matmul: Any) -> float:
    """The relative error of fp32 products by oneDNN: tried once a process, while nothing else computes in it yet."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 256, generator=generator) for _ in range(2))
    exact = a.double() @ b.double()
    before, matmul.fp32_precision = matmul.fp32_precision, "bf16"
    try:
        return float(((a @ b).double() - exact).abs().max() / exact.abs().max())
    finally:
        matmul.fp32_precision = before
