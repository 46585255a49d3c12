"""The S6 scan against mambapy's, and its time and memory by the length of the text beside those of attention.

    python benchmarks/scan.py [--rounds 7] [--lengths 256 1024 4096 16384] [--picture FILE.svg] [--json]

Peers (not installed with the project): pip install mambapy.

Forward and backward on one thread. The first part takes its contestants in turn in one process, twice: with the
allocator as it comes, and with one that keeps what it has freed (giving 100 MB back to the system and taking them
again costs several scans, and the peer most of all). The ratios are those of the first. In the second part each
measurement has a process of its own, which keeps what it has freed, so that the most it ever held is its own too. The
lengths take turns, three times, and the median of each counts.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(10**12), "MALLOC_TOP_PAD_": str(2**26)}
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
BATCH, TOKENS, INNER, STATES = 8, 256, 768, 16
WIDTH, HEADS = 384, 6
LENGTHS, REPEATS = (256, 1024, 4096, 16384), 3
# Tokens in each measurement of the second part; below that several sequences of the length make one batch.
TOKENS_AT_ONCE = 4096

Timed = Callable[[], tuple[float, list[Any]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="rounds of the comparison (default 7)")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, help="lengths of text (tokens)")
    parser.add_argument("--picture", type=Path, help="where to draw the curves (SVG)")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        what, *rest = args.child
        print(json.dumps(compare(int(rest[0])) if what == "compare" else measure(what, int(rest[0]))))
        return
    compared = {kept: child(kept, "compare", args.rounds) for kept in (False, True)}
    for kept, found in compared.items():
        print("memory kept:" if kept else "allocator as it comes:")
        for name, seconds in found["seconds"].items():
            print(f"    {name:8} {seconds * 1e3:8.1f} ms   {ratios(found)[name]:6.2f} x mambapy")
    curves = {what: curve(what, args.lengths) for what in ("scan", "attention")}
    for what, points in curves.items():
        for p in points:
            print(f"{what:9} {p['tokens']:6} tokens: {p['microseconds']:8.2f} us and {p['bytes']:8.0f} bytes a token")
    result = summarise(compared, curves)
    if args.picture:
        draw(curves, args.picture)
    if args.json:
        print(json.dumps(result))


def curve(what: str, lengths: Sequence[int]) -> list[dict[str, Any]]:
    """The medians of each length."""
    turns = [[child(True, what, length) for length in lengths] for _ in range(REPEATS)]
    return [
        {key: statistics.median(point[key] for point in points) for key in points[0]}
        for points in zip(*turns, strict=True)
    ]


def child(keep_memory: bool, *words: object) -> dict[str, Any]:
    """What a process of its own finds."""
    environment = os.environ | THREADS | (KEEP_MEMORY if keep_memory else {})
    command = [sys.executable, __file__, "--child", *map(str, words)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def ratios(found: dict[str, Any]) -> dict[str, float]:
    """How many times as fast as mambapy."""
    return {name: found["seconds"]["mambapy"] / seconds for name, seconds in found["seconds"].items()}


def summarise(compared: dict[bool, dict[str, Any]], curves: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """The ratios, and by how much the dearest token costs more than the cheapest over all lengths."""
    plain, kept = ({f"{name}_vs_mambapy": ratios(compared[k])[name] for name in ("kernel", "torch")} for k in (0, 1))
    times, sizes = ([point[key] for point in curves["scan"]] for key in ("microseconds", "bytes"))
    return {
        "ratios": plain,
        "ratios_with_memory_kept": kept,
        "kernel": compared[False]["kernel"],
        "largest_difference": max(found["difference"] for found in compared.values()),
        "time_per_token_spread": max(times) / min(times) - 1,
        "memory_per_token_spread": max(sizes) / min(sizes) - 1,
        "curves": curves,
    }


def compare(rounds: int) -> dict[str, Any]:
    """Median seconds of forward and backward, the contestants in turn; all must give the same."""
    import torch
    from mambapy.mamba import MambaBlock, MambaConfig

    from nano_think.nn.native import kernels
    from nano_think.nn.selective_scan import scan_plainly, selective_scan

    torch.set_num_threads(1)
    inputs, fresh = draw_inputs(BATCH, TOKENS)
    block = MambaBlock(MambaConfig(d_model=WIDTH, n_layers=1, d_state=STATES, expand_factor=INNER // WIDTH))
    forms = {
        "mambapy": lambda: block.selective_scan(*inputs),
        "torch": lambda: scan_plainly(*inputs, None, None, fresh)[0],
        "kernel": lambda: selective_scan(*inputs, fresh)[0],
    }
    toward = torch.randn(BATCH, TOKENS, INNER, generator=torch.Generator().manual_seed(1))
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    results = {}
    for turn in range(rounds + 1):
        for name, form in forms.items():
            started = time.perf_counter()
            y = form()
            grads = torch.autograd.grad(y, inputs, toward)
            if turn:
                seconds[name].append(time.perf_counter() - started)
            results[name] = [y.detach(), *grads]
    difference = max(
        float((a - b).abs().max() / b.abs().max())
        for name in ("torch", "kernel")
        for a, b in zip(results[name], results["mambapy"], strict=True)
    )
    assert difference < 1e-5, difference
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {"seconds": medians, "difference": difference, "kernel": kernels().reason}


def measure(what: str, tokens: int) -> dict[str, Any]:
    """Microseconds and bytes a token of one forward and backward pass over texts of this length."""
    import torch

    torch.set_num_threads(1)
    batch = max(1, TOKENS_AT_ONCE // tokens)
    # A small run first: what the libraries set up once is not the text's.
    build(what, 1, 64)()
    step = build(what, batch, tokens)
    before, most = memory("VmRSS"), 0
    seconds: list[float] = []
    while not seconds or (len(seconds) < 15 and sum(seconds) < 10):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
        # Of the first pass alone: long texts are passed once, short ones often, and what is kept adds up.
        most = most or memory("VmHWM")
    each = statistics.median(seconds[1:] or seconds) / (batch * tokens)
    return {"tokens": tokens, "microseconds": each * 1e6, "bytes": (most - before) / (batch * tokens)}


def build(what: str, batch: int, tokens: int) -> Callable[[], Any]:
    """One forward and backward pass: the scan of an inner width of 768, or causal attention of 6 heads at width 384."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    from nano_think.nn.selective_scan import selective_scan

    if what == "scan":
        inputs, fresh = draw_inputs(batch, tokens)
        toward = torch.ones(batch, tokens, INNER)
        return lambda: torch.autograd.grad(selective_scan(*inputs, fresh)[0], inputs, toward)
    q, k, v = (torch.randn(batch, HEADS, tokens, WIDTH // HEADS, requires_grad=True) for _ in range(3))
    toward = torch.ones_like(q)
    return lambda: torch.autograd.grad(scaled_dot_product_attention(q, k, v, is_causal=True), (q, k, v), toward)


def draw_inputs(batch: int, tokens: int) -> tuple[list[Any], Any]:
    """u, dt, A, B, C, D of a scan, and no document's beginning."""
    import torch

    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    u, dt = normal(batch, tokens, INNER), 0.1 * torch.rand(batch, tokens, INNER, generator=generator)
    A = -torch.arange(1.0, STATES + 1).repeat(INNER, 1)
    values = [u, dt, A, normal(batch, tokens, STATES), normal(batch, tokens, STATES), normal(INNER)]
    return [value.requires_grad_() for value in values], torch.zeros(batch, tokens, dtype=torch.bool)


def memory(name: str) -> int:
    """Bytes that this process holds now (VmRSS) or held at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def draw(curves: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Time a token and memory a token by the length of the text, both axes logarithmic."""
    from matplotlib.ticker import NullFormatter

    from nano_think.report.palette import EXPERTS
    from nano_think.report.svg import axes, canvas, drawing

    with drawing():
        figure = canvas(560, 240)
        panels = (("microseconds", "time a token (µs)", 1.0), ("bytes", "memory a token (kB)", 1e-3))
        for place, (key, title, unit) in enumerate(panels):
            panel = axes(figure, 48 + 276 * place, 44, 216, 160)
            for (what, points), colour in zip(curves.items(), (EXPERTS[2], EXPERTS[0]), strict=True):
                x, y = [p["tokens"] for p in points], [p[key] * unit for p in points]
                panel.plot(x, y, color=colour, marker="o", markersize=4, linewidth=1.8)
                panel.annotate(what, (x[-1], y[-1]), (-4, 7), textcoords="offset points", ha="right", color=colour)
            panel.set_xscale("log", base=2)
            panel.set_yscale("log")
            panel.yaxis.set_major_formatter("{x:g}")
            panel.yaxis.set_minor_formatter(NullFormatter())
            panel.set_xticks(x, [f"{tokens:,}" for tokens in x])
            panel.set_title(title, loc="left")
            panel.set_xlabel("length of the text (tokens)")
            panel.grid(axis="y")
            panel.margins(y=0.15)
        figure.savefig(path, format="svg", metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    main()
