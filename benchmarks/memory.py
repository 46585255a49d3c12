"""The memory: searching by an exact index, inverted lists and a graph; adding, opening again, and a decode step.

    python benchmarks/memory.py --sizes 10000 100000 1000000 [--root artifacts] --json

Unit vectors in clusters of about a hundred, members at a cosine of about 0.8 to its centre; queries are members with
noise, so that an easy answer exists, as it does where a text repeats itself. With --root, `own` is the same for the
newest memory there: its last --queries entries are looked up among the others, without anything made easy. Kinds of
index take turns, one query at a time (`qps`) and all at once (`qps_batch`); `recall` is the share of the exact four
nearest that are found; `speedup` and `speedup_batch` are over the exact index (flat); `probes` is the number of lists
that a query looks into, which the index chooses by measured recall, and `lists` how many there are.

- add_rate: vectors per second until they can be searched, training included.
- append_rate: entries per second that are acknowledged by a conversation's memory, in turns of 512 and of 32, each on
  the disk before the next. Depends on the disk.
- open_seconds: opening that memory (of the largest size up to --log-up-to) from the log alone, and with a snapshot.
- decode_ms: one token of an untrained mixture of the preset's shape, written by the engine; retrieval_share: one search
  over it. What reading a memory costs a token in all is measured by benchmarks/generate.py.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

KINDS = ("flat", "ivf", "hnsw")
# Written to time one.
TOKENS = 64


def main() -> None:
    args = arguments()
    threads = {name: str(args.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    if not threads.items() <= os.environ.items():
        # Read when the libraries are loaded, so it is too late to set them in this process.
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | threads)
    found: dict[str, Any] = {"threads": args.threads, "width": args.width, "sizes": {}}
    found["decode_ms"] = 1e3 * decode_seconds(args.preset, args.rounds) if args.preset else None
    for size in args.sizes:
        found["sizes"][size] = compare(*clustered(size, args.queries, args.width), args, found["decode_ms"])
        show(size, found["sizes"][size])
    if args.root:
        keys = own_keys(args.root)
        found["own"] = compare(keys[: -args.queries], keys[-args.queries :], args, found["decode_ms"])
        show(len(keys) - args.queries, found["own"], f" of a model of width {keys.shape[1]}")
    logged = [size for size in args.sizes if size <= args.log_up_to]
    if logged:
        found["log"] = log(max(logged), args)
        print("conversations:", json.dumps(found["log"]))
    if args.json:
        print(json.dumps(found))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="entries")
    parser.add_argument("--width", type=int, default=384, help="width of a key")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="kinds of index")
    parser.add_argument("--queries", type=int, default=200, help="queries")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each measurement; medians are told")
    parser.add_argument("--threads", type=int, default=1, help="threads of every library")
    parser.add_argument("--log-up-to", type=int, default=1_000_000, help="largest memory that is written; 0: none")
    parser.add_argument("--root", type=Path, help="also the newest memory of this artifact root")
    parser.add_argument("--preset", default="seed", help="whose decode step is measured; empty: none")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    return parser.parse_args()


def clustered(size: int, queries: int, width: int) -> Any:
    """Keys (S, D) around a centre for each hundred, and queries (Q, D) near some of them."""
    import numpy as np

    draw = np.random.default_rng(0)

    def near(centres: Any, noise: float) -> Any:
        drawn = draw.standard_normal(centres.shape, dtype=np.float32) * (noise / width**0.5)
        vectors = centres + drawn
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    centres = near(np.zeros((max(1, size // 100), width), dtype=np.float32), 1.0)
    keys = near(centres[draw.integers(0, len(centres), size)], 0.7)
    return keys, near(keys[draw.integers(0, size, queries)], 0.3)


def timed(job: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what came of it."""
    started = time.perf_counter()
    made = job()
    return time.perf_counter() - started, made


def own_keys(root: Path) -> Any:
    """The keys of the newest memory below an artifact root, (S, D), the oldest first."""
    from nano_think.memory.store import VectorStore

    stores = sorted(root.glob("memory/*/store.safetensors"), key=lambda path: path.stat().st_mtime)
    if not stores:
        sys.exit(f"benchmark: {root}: holds no memory; train one with nano-think run --root {root}")
    return VectorStore.load(stores[-1]).entries.key


def compare(keys: Any, queries: Any, args: argparse.Namespace, decode_ms: float | None) -> dict[str, Any]:
    """What is found of each kind of index over keys (S, D), asked queries (Q, D)."""
    import numpy as np
    from _timing import medians, take_turns

    from nano_think.memory.index import Index, search_plainly

    size, wanted = len(keys), search_plainly(keys, queries, 4)[1]
    indexes, found = {}, {}
    for kind in args.kinds:
        seconds, index = timed(lambda kind=kind: Index(keys, kind))
        hits = [len(set(got) & set(best)) for got, best in zip(index.search(queries, 4)[1], wanted, strict=True)]
        indexes[kind] = index
        found[kind] = {"add_rate": size / seconds, "recall": float(np.mean(hits)) / 4}
        lists = index.lists()
        if lists:
            found[kind] |= {"lists": len(lists.centre), "probes": lists.probes}
    # Of the exact index over many entries a few queries tell as much.
    few = queries[: max(10, min(args.queries, 20_000_000 // size))]
    single = take_turns(
        {kind: lambda i=i: [i.search(few[q : q + 1], 4) for q in range(len(few))] for kind, i in indexes.items()},
        args.rounds,
    )
    batch = take_turns({kind: lambda i=i: i.search(few, 4) for kind, i in indexes.items()}, args.rounds)
    for kind in indexes:
        found[kind] |= {"qps": len(few) / medians(single)[kind], "qps_batch": len(few) / medians(batch)[kind]}
        if "flat" in found:
            for way in ("", "_batch"):
                found[kind][f"speedup{way}"] = found[kind][f"qps{way}"] / found["flat"][f"qps{way}"]
        if decode_ms:
            found[kind]["retrieval_share"] = 1e3 / found[kind]["qps"] / decode_ms
    return found


def show(size: int, found: dict[str, Any], what: str = "") -> None:
    print(f"{size:,} entries{what}")
    for kind, values in found.items():
        print(f"    {kind:5}" + "  ".join(f"{name} {value:,.4g}" for name, value in values.items()), flush=True)


def log(size: int, args: argparse.Namespace) -> dict[str, Any]:
    """Appending to a conversation's memory of `size` entries, and opening it with and without a snapshot."""
    import numpy as np

    from nano_think.memory import snapshot
    from nano_think.memory.conversation import TURN_TOKENS, Conversations
    from nano_think.memory.journal import Journal, Owner
    from nano_think.memory.turn import Turn

    keys, _ = clustered(size, 1, args.width)
    owner = Owner(model="benchmark", tokenizer="benchmark", width=args.width)

    def turn(first: int) -> Turn:
        key = keys[first : first + TURN_TOKENS]
        tokens, T = np.arange(first, first + len(key) + 1), len(key)
        return Turn(
            tokens=tokens,
            offset=np.arange(T),
            weight=np.ones(T),
            key=key,
            document=0,
            first=first,
            time=first,
            written=0,
        )

    with tempfile.TemporaryDirectory(prefix="nano_think-memory-") as folder:
        place, limit = Path(folder), 4 * size + TURN_TOKENS
        journal = Journal(place, owner)
        journal.create(map(turn, range(0, size, TURN_TOKENS)), journal.head)
        from_log, memory = timed(lambda: Conversations(place, owner, write=True, limit=limit))
        snapshot_seconds, had = timed(memory.snapshot)
        memory.close()
        with_snapshot, memory = timed(lambda: Conversations(place, owner, write=True, limit=limit))
        rates = {}
        for length in (TURN_TOKENS, 32):
            count = min(20, max(1, size // 4 // length))
            seconds, _ = timed(
                lambda length=length, count=count: [
                    memory.append(1, range(length + 1), keys[:length]) for _ in range(count)
                ]
            )
            rates[length] = count * length / seconds
        memory.close()
        has = snapshot.LISTS in {path.name for path in place.iterdir()}
        size_bytes = sum(path.stat().st_size for path in place.iterdir())
    assert had == has
    return {
        "entries": size, "bytes": size_bytes, "snapshot_seconds": snapshot_seconds if had else None,
        "open_seconds": {"log": from_log, "snapshot": with_snapshot if had else None}, "append_rate": rates,
    }  # fmt: skip


def decode_seconds(preset: str, rounds: int) -> float:
    """Median seconds of one token of the engine in an untrained mixture of the preset's shape, prompt included."""
    import torch
    from _timing import medians, take_turns
    from generate_ways.measure import engine
    from generate_ways.models import START, build_model, build_shape

    from nano_think.stages.pipeline import load

    shape = build_shape(preset, load(preset).tokenizer.vocab_size)
    torch.manual_seed(0)
    way = engine(build_model(shape), shape.window, (START,), TOKENS)
    return medians(take_turns({"decode": way}, rounds))["decode"] / TOKENS


if __name__ == "__main__":
    main()
