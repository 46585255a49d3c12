"""Writing text at batch 1: the transformer expert next to Hugging Face's Llama, the mixture next to having no cache.

    python benchmarks/generate.py --threads 1 2 --json

Each number of threads is measured in a process of its own, and what is compared takes turns in it: medians over rounds.
Every way reads a prompt of 16 tokens and writes 256 more, greedily, in fp32, with random weights, at width 384 and
8,192 words; the shape of the experts is that of the preset `seed`. Rates are new tokens per second, prompt included.

- hf_llama: `LlamaForCausalLM.generate` with its cache, of the transformer expert's layers, heads and inner width.
- transformer, state_space, diffuser, mixture: `Engine.stream`, with the events that a server would send on.
- plain: the mixture computed anew over the whole text for every token, without any cache.
- memory: the mixture that reads a memory of 100,000 entries (inverted lists) at every token; the keys lie as those of
  a trained model do. memory_random: the keys are random, so that nearly all have to be compared.
- flat: the state-space expert's time per token (without head) at contexts of 128 and 4,096 tokens.
- draft (only when asked for): the trained mixture of `--model`, an expert of which guesses tokens (`generate --draft`):
  accepted guesses per judgement, and the rate over that without, by expert and number of tokens (for a diffuser also of
  steps), greedily and at temperature 0.8, over six prompts.

Ratios are of rates: `transformer_vs_hf` of the transformer expert over hf_llama, `mixture_vs_plain`,
`mixture_vs_transformer`, `with_memory` of the mixture with memory over without, `flat` of the time per token at 128
over that at 4,096. With several numbers of threads the smallest is told.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

PARTS = ("peers", "plain", "memory", "flat")
DRAFT = "draft"


def main() -> None:
    args = arguments()
    if args.child:
        sys.path.insert(0, str(Path(__file__).parent))
        from generate_ways.measure import measure

        print(json.dumps(measure(args)))
        return
    found = {threads: child(threads, args) for threads in args.threads}
    for threads, values in found.items():
        print(f"{threads} thread(s)")
        for name, value in values.items():
            print(f"    {name:40} {value:12.4g}")
    if args.json:
        names = {name.removeprefix("ratio.") for values in found.values() for name in values if "ratio." in name}
        ratios = {name: min(values[f"ratio.{name}"] for values in found.values()) for name in sorted(names)}
        print(json.dumps({"ratios": ratios, "by_threads": found}))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads")
    parser.add_argument("--parts", nargs="+", choices=(*PARTS, DRAFT), default=PARTS, help="what to measure")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each part")
    parser.add_argument("--tokens", type=int, default=256, help="new tokens")
    parser.add_argument("--prompt", type=int, default=16, help="tokens of the prompt")
    parser.add_argument("--preset", default="seed", help="whose shape the experts and the router have")
    parser.add_argument("--vocabulary", type=int, default=8192, help="words")
    parser.add_argument("--entries", type=int, default=100_000, help="entries of the memory")
    parser.add_argument("--contexts", type=int, nargs=2, default=[128, 4096], help="contexts of `flat` (tokens)")
    parser.add_argument("--model", help="for `draft`: the folder of a trained mixture")
    parser.add_argument("--draft-tokens", type=int, nargs="+", default=[1, 2, 4], help="guesses at a time")
    parser.add_argument("--draft-steps", type=int, nargs="+", default=[1, 10], help="answers of the diffuser for them")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if DRAFT in args.parts and not args.model:
        parser.error("draft: wanted --model, the folder of a trained mixture")
    return args


def child(threads: int, args: argparse.Namespace) -> dict[str, Any]:
    """What a process with so many threads finds."""
    count = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    given = [argument for argument in sys.argv[1:] if argument != "--json"]
    command = [sys.executable, __file__, *given, "--child", "--threads", str(threads)]
    done = subprocess.run(command, env=os.environ | count, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"benchmark: the measurement with {threads} thread(s) failed (see above)")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
