"""What this machine can do, measured: the memory that is free, and how fast it multiplies matrices."""

import os
import statistics
import time
from contextlib import suppress
from pathlib import Path

import torch

# The first runs load kernels and wake threads.
GEMM_SECONDS, GEMM_RUNS, WARM_UP = 0.3, 9, 2


def free_memory(device: torch.device) -> int | None:
    """Bytes that a process can still have on `device`; None where nobody says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return min((found for found in (_available(), _left_in_group()) if found is not None), default=None)


def _available(path: Path = Path("/proc/meminfo")) -> int | None:
    """What Linux could hand out without swapping."""
    with suppress(OSError):
        for line in path.read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return int(value.split()[0]) * 1024
    with suppress(ValueError, OSError):  # Elsewhere: all that the machine has, which is better than nothing.
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _left_in_group(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What a container's limit leaves; caches in it can be given up."""
    with suppress(OSError, ValueError):
        most = int((folder / "memory.max").read_text(encoding="ascii"))
        used = int((folder / "memory.current").read_text(encoding="ascii"))
        counts = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
        return max(0, most - used + int(counts.get("inactive_file", 0)))
    return None


def gemm_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Median FLOP/s of a matrix product, (2048, 384) (384, 1536) on a CPU and 4096^3 on a GPU, with this process's
    threads: what a training's speed is measured against. Takes about a third of a second.
    """
    M, K, N = (2048, 384, 1536) if device.type == "cpu" else (4096, 4096, 4096)
    a, b = torch.ones(M, K, device=device, dtype=dtype), torch.ones(K, N, device=device, dtype=dtype)
    deadline, seconds = time.perf_counter() + GEMM_SECONDS, []
    for run in range(WARM_UP + GEMM_RUNS):
        started = time.perf_counter()
        a @ b
        finish(device)
        seconds.append(time.perf_counter() - started)
        if run >= WARM_UP and time.perf_counter() > deadline:
            break
    return 2 * M * K * N / statistics.median(seconds[WARM_UP:])


def finish(device: torch.device) -> None:
    """Wait until a GPU has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
