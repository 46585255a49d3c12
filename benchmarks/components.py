"""What each part of a chat model brings, against a null that it must beat, and what it costs.

    python benchmarks/components.py --part psyche --seeds 1 2 3 [--root FOLDER] [--tokens 200000] [--out FILE] [--json]
    python benchmarks/components.py --table FILE [FILE ...]

The base is that of the preset `chat-component`, made once below --root. A run is one part with one seed: the base goes
on learning from its text with the part and without it, with the same windows and steps, and both are scored on the test
split. Each run's figures are printed as they come, and with --out a line of JSON is added to a file for each. --table
prints such files as the table of docs/results.md: means over seeds, and Student's 95% interval of a mean.

What each part is measured by, and its null: the first lines of benchmarks/component_ways/PART.py.
"""

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

PARTS = ("psyche", "digits", "state_memory", "self_model", "energy", "concepts", "latents", "memes", "body")
# Student's t that 2.5% lie above, by degrees of freedom.
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
MOST_COST = 0.003
# Of training, where it is not 200,000.
TOKENS = {"digits": 3_000_000, "state_memory": 2_500_000, "body": 400_000, "latents": 600_000, "energy": 600_000}


def main() -> int:
    wanted = arguments()
    if wanted.table:
        print(table([json.loads(line) for file in wanted.table for line in file.read_text().splitlines()]))
        return 0
    one_thread()
    with tempfile.TemporaryDirectory() as folder:
        found = [run(part, seed, wanted, wanted.root or Path(folder)) for part in wanted.part for seed in wanted.seeds]
    print(json.dumps(found) if wanted.json else table(found))
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--tokens", type=int, default=0, help="that each model learns from; 0: what is usual")
    parser.add_argument("--root", type=Path, help="where the base is made, or lies; nothing: a folder that is removed")
    parser.add_argument("--preset", default="chat-component", help="of the base")
    parser.add_argument("--out", type=Path, help="file to which a line of JSON is added for each run")
    parser.add_argument("--table", type=Path, nargs="+", help="files of such lines, to be printed as a table")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    return parser.parse_args()


def one_thread() -> None:
    """Start anew where libraries were told to use more than one thread: they read that when they are loaded."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    if not threads.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | threads)


def run(part: str, seed: int, wanted: argparse.Namespace, root: Path) -> dict[str, Any]:
    """The figures of one part with one seed."""
    from importlib import import_module

    from component_ways.ground import lay

    from nano_think.stages.chat_pipeline import load_chat_config

    ground = lay(load_chat_config(wanted.preset), root)
    tokens = wanted.tokens or TOKENS.get(part, 200_000)
    started = time.process_time()
    found = import_module(f"component_ways.{part}").measure(ground, seed, tokens)
    about = {"part": part, "seed": seed, "tokens": tokens}
    found = about | found | {"cpu_seconds": round(time.process_time() - started, 1)}
    if wanted.out:
        with wanted.out.open("a") as file:
            file.write(json.dumps(found) + "\n")
    print(f"{part}, seed {seed}: {found['value']:.4f}, null {found['null_value']:.4f}", file=sys.stderr, flush=True)
    return found


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean and Student's 95% interval of it; of one value, no interval: infinite."""
    mean = fmean(values)
    if len(values) < 2:
        return mean, -math.inf, math.inf
    half = STUDENT[len(values) - 1] * stdev(values) / len(values) ** 0.5
    return mean, mean - half, mean + half


def table(found: list[dict[str, Any]]) -> str:
    """The table in Markdown, a row for each part."""
    head = (
        "part",
        "metric",
        "with",
        "null",
        "null's",
        "difference",
        "seeds",
        "parameters",
        "FLOPs",
        "bits per byte",
        "verdict",
    )
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for part in dict.fromkeys(one["part"] for one in found):
        lines.append(f"| {' | '.join(row([one for one in found if one['part'] == part]))} |")
    return "\n".join(lines)


def row(runs: list[dict[str, Any]]) -> list[str]:
    """The cells of a part: a difference is paired by seed."""
    first = runs[0]
    gain = interval([one["value"] - one["null_value"] for one in runs])
    costs = [one["bits_per_byte"] for one in runs if one["bits_per_byte"] is not None]
    cost = interval(costs) if costs else None
    return [
        f"`{first['part']}`", f"{first['metric']} ({first['better']} is better)",
        told(interval([one["value"] for one in runs])), first["null"],
        told(interval([one["null_value"] for one in runs])), told(gain), str(len(runs)),
        f"{fmean(one['parameters'] for one in runs):+.1%}", f"{fmean(one['flops'] for one in runs):+.1%}",
        told(cost, percent=True) if cost else "not measured", judge(first, gain, cost),
    ]  # fmt: skip


def told(found: tuple[float, float, float], percent: bool = False) -> str:
    mean, low, high = (f"{100 * value:+.2f}%" if percent else f"{value:.3f}" for value in found)
    return f"{mean} [{low}, {high}]" if math.isfinite(found[1]) else mean


def judge(run: dict[str, Any], gain: tuple[float, float, float], cost: tuple[float, float, float] | None) -> str:
    """The verdict of a row: of one that asks for no more than to be as good, whether the cost is below 0.3%."""
    if not run.get("asks_for_no_gain"):
        return verdict(run["better"], gain, cost)
    assert cost is not None
    return "as good: within 0.3%" if cost[2] <= MOST_COST else "may be worse by more than 0.3%"


def verdict(better: str, gain: tuple[float, float, float], cost: tuple[float, float, float] | None) -> str:
    """On only where the gain is beyond doubt and the cost below 0.3% without doubt; else off, and why."""
    _, low, high = gain
    beats = low > 0 if better == "higher" else high < 0
    if not beats:
        return "off: does not beat its null beyond doubt"
    if cost is None:
        return "beats its null; its cost on text is not measured: off"
    return "may be on" if cost[2] <= MOST_COST else "off: may cost more than 0.3% bits per byte"


if __name__ == "__main__":
    sys.exit(main())
