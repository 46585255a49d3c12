"""A training step of each expert against the models that others would train, as they come from PyPI.

    python benchmarks/train.py [--threads 1 2] [--parts step default state_space layer compiled parity muon] [--json]

Peers (`pip install -e '.[bench]'`): transformers (Llama; the layer of Mamba) and mambapy. The ways of a part take turns
in one process, but for those of `default`; each number of threads has processes of its own. A step is forward,
backward, gradient clipping and fused AdamW, on both sides. Ratios are peer's time over ours, medians of the rounds;
`ratios` holds the smallest over the numbers of threads, `by_threads` all of them.

- transformer_vs_hf_llama_bf16: bf16 autocast, both eager. Ours is the transformer expert brought to Llama's
  architecture (no norm of queries and keys, no last projection, a tied table that learns) with its very weights.
- transformer_vs_hf_llama_default: what each side does when nothing is said, in processes of their own. Theirs is fp32
  and learns its table; ours is the expert as the pipeline trains it: under its frozen table, in the precision, the
  threads' manners and the memory settings that a training gets.
- same_transformer_vs_hf_llama_default: in the same turns, ours with Llama's architecture and a table that learns.
- transformer_vs_hf_llama_compiled: bf16 autocast, both through torch.compile, each as a whole.
- shipped_vs_hf_llama_bf16: our expert as it ships, under its frozen table; not the same architecture.
- mfu: floating-point operations that the step cannot do without (`step_flops`) per second over those of a bf16 product
  (2048 x 384 x 1536) that takes its turns with the steps. diffuser_vs_transformer_mfu: of the experts as they ship;
  the diffuser's time is that of its two kinds of steps, weighted as they are drawn.
- state_space_vs_mambapy: fp32, the S6 form with mambapy's weights; ssd_vs_mambapy is our other form, another model.
- state_space_vs_hf_mamba: one layer, forward and backward, fp32, with Hugging Face's weights.
- parity: parameters, operations and the loss after 20 steps must agree, or this ends with an error.
- muon: what Muon adds to a step of the shipped transformer; steps that it needs to the loss that AdamW ends with, on
  Python's standard library as bytes, AdamW at the best of three rates.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

PARTS = ("step", "default", "state_space", "layer", "compiled", "parity", "muon")
# These do not depend on the number of threads and are measured once, with the most of them.
ONCE = ("parity", "muon")


def main() -> None:
    args = arguments()
    sys.path.insert(0, str(Path(__file__).parent))
    if args.child:
        from train_ways.measure import measure

        print(json.dumps(measure(args)))
        return
    from train_ways.default import measure_default

    found = {}
    for threads in args.threads:
        parts = [part for part in args.parts if part not in ONCE or threads == max(args.threads)]
        inside = [part for part in parts if part != "default"]
        found[threads] = child(threads, inside, args) if inside else {}
        if "default" in parts:
            found[threads] |= measure_default(threads, args.rounds, args.shape)
        print(f"{threads} thread(s)")
        for name, value in found[threads].items():
            print(f"    {name:40} {value:12.4g}" if isinstance(value, float) else f"    {name}: {value}")
    if args.json:
        print(json.dumps(summarise(found)))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each part")
    parser.add_argument("--shape", type=json.loads, default={}, help="other sizes, as JSON: see train_ways/shape.py")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def child(threads: int, parts: list[str], args: argparse.Namespace) -> dict[str, Any]:
    """What a process with so many threads finds."""
    count = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    command = [sys.executable, __file__, "--child", "--threads", str(threads), "--rounds", str(args.rounds)]
    command += ["--shape", json.dumps(args.shape), "--parts", *parts]
    done = subprocess.run(command, env=os.environ | count, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"benchmark: the measurement with {threads} thread(s) failed (see above)")
    return json.loads(done.stdout.splitlines()[-1])


def summarise(found: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """The smallest of each ratio, and everything."""
    names = {name.removeprefix("ratio.") for values in found.values() for name in values if name.startswith("ratio.")}
    ratios = {name: min(v[f"ratio.{name}"] for v in found.values() if f"ratio.{name}" in v) for name in sorted(names)}
    return {"ratios": ratios, "by_threads": found}


if __name__ == "__main__":
    main()
