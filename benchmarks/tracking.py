"""What telling MLflow costs a training: the time inside the tracker over the time of the steps.

    python benchmarks/tracking.py [--step 0.15] [--seconds 60] [--json]

A training of the pipeline tells six figures every ten steps. Here the steps are sleeps of the given length, and the
store is the pipeline's (SQLite, write-ahead logging), with two more processes writing to it as the other experts would.
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from pathlib import Path

from nano_think.stages.tracking import Run, open_tracker
from nano_think.stages.tracking_store import make_store

EVERY, FIGURES = 10, ("loss", "next_token", "rate", "tokens_per_second", "mfu", "noisy")


def tell(root: str, step: float, seconds: float, share: "multiprocessing.Queue[float]") -> None:
    """One training's reports to a run of its own."""
    client, uri, experiment = make_store(Path(root))
    run = client.create_run(experiment).info.run_id
    tracker, inside, begun, steps = Run(client, uri, run), 0.0, time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        time.sleep(step)
        steps += 1
        if steps % EVERY == 0:
            started = time.perf_counter()
            tracker.metrics(dict.fromkeys(FIGURES, 1.0), steps)
            inside += time.perf_counter() - started
    started = time.perf_counter()
    tracker.flush()
    inside += time.perf_counter() - started
    share.put(inside / (steps * step))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step", type=float, default=0.15, help="a step (seconds)")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long each training goes on (seconds)")
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    wanted = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as root:
        open_tracker(Path(root), "benchmark")
        shares: multiprocessing.Queue[float] = context.Queue()
        trainings = [context.Process(target=tell, args=(root, wanted.step, wanted.seconds, shares)) for _ in range(3)]
        for training in trainings:
            training.start()
        found = sorted(shares.get() for _ in trainings)
        for training in trainings:
            training.join()
    print(f"tracking: {found[0]:.2%} to {found[-1]:.2%} of a training's steps")
    if wanted.json:
        print(json.dumps({"ratios": {"tracking": found[-1]}}))


if __name__ == "__main__":
    main()
