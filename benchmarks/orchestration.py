"""What Prefect and MLflow cost a run: the flow, next to the same stages called in a plain Python loop.

    python benchmarks/orchestration.py [--rounds 3] [--preset nano] [--json]

Both launch the experts alike, side by side in processes of their own, and start from nothing in a root of their own.
The plain loop tells nobody anything. Imports, the start of Prefect's temporary API, and MLflow's empty store, which
`run` makes meanwhile, are paid before, and printed.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

STARTED = time.perf_counter()
ROOTS = tempfile.TemporaryDirectory(prefix="orchestration-")


def fresh() -> Path:
    """A root with nothing in it."""
    return Path(tempfile.mkdtemp(dir=ROOTS.name))


def in_a_loop(preset: str, overrides: dict[str, Any]) -> None:
    """Each stage as soon as what it needs is there, by threads, as the flow's runner does it."""
    from nano_think.stages.artifact import Artifact
    from nano_think.stages.pipeline import load, plan

    root, made = fresh(), dict[str, Future[Artifact]]()
    with ThreadPoolExecutor() as pool:
        for name, node in plan(load(preset, overrides)).items():
            inputs = {need: made[need].result() for need in node.needs}
            made[name] = pool.submit(node.stage.run, root, inputs)


def in_a_flow(preset: str, overrides: dict[str, Any], roots: list[Path]) -> None:
    """The same, told to Prefect and MLflow."""
    from flows.full_pipeline import full_pipeline

    full_pipeline(preset=preset, overrides=overrides, root=str(roots.pop()))


def start_up(wait_for_api: Callable[[], None], rounds: int) -> tuple[list[Path], dict[str, float]]:
    """A root with an empty store for each round; seconds of a run's start, and of one store, which is made in them."""
    import flows.full_pipeline  # noqa: F401
    from nano_think.stages.tracking_store import make_store

    roots, stores = [fresh() for _ in range(rounds)], []
    for root in roots:
        begun = time.perf_counter()
        make_store(root)
        stores.append(time.perf_counter() - begun)
        # Further ones are not of a run's start.
        wait_for_api()
        if root is roots[0]:
            started = time.perf_counter() - STARTED
    return roots, {"start_up_seconds": started, "store_seconds": stores[-1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="how often each way is taken, in turn")
    parser.add_argument("--preset", default="nano", help="what is run")
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    wanted = parser.parse_args()
    overrides = {"compute": {"threads": 1}}
    # Imported late: this is the start-up that is told.
    from flows.local import temporary_api

    with temporary_api(fresh()) as wait_for_api:
        from _timing import medians, take_turns

        roots, paid = start_up(wait_for_api, wanted.rounds)
        ways = {
            "loop": lambda: in_a_loop(wanted.preset, overrides),
            "flow": lambda: in_a_flow(wanted.preset, overrides, roots),
        }
        seconds = take_turns(ways, wanted.rounds, warm_up=0)
    taken = medians(seconds)
    ratio = taken["flow"] / taken["loop"]
    print(
        f"start-up: {paid['start_up_seconds']:.1f} s for imports, Prefect's temporary API and MLflow's empty store "
        f"({paid['store_seconds']:.1f} s of it), side by side"
    )
    for name, rounds in seconds.items():
        print(f"{name}: {taken[name]:.1f} s (median of {', '.join(f'{one:.1f}' for one in rounds)})")
    print(f"orchestration: the flow takes {ratio:.3f} times as long as the loop")
    if wanted.json:
        print(json.dumps({"ratios": {"orchestration": ratio}, "seconds": taken, **paid}))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
