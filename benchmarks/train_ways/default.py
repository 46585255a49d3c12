"""Transformers as each side trains them when nothing is said: in processes and environments of their own, in turns.

What a training of the pipeline runs in is part of what we do when nothing is said: how it waits, which memory it keeps.
"""

import contextlib
import functools
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _timing import take_turns

from nano_think.core.process import training_environment

# What leaves the caches of the processor to another process varies more than ways that share one.
LEAST_ROUNDS, WARM_UP = 9, 2


def measure_default(threads: int, rounds: int, sizes: dict[str, int]) -> dict[str, Any]:
    """Seconds of a step of each way, and the medians over the rounds of theirs over ours."""
    count = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    trained = training_environment(threads, {})
    environments = {"hf_llama": {**os.environ, **count}, "llama": trained, "shipped": trained}
    with contextlib.ExitStack() as stack:
        ways = {
            name: stack.enter_context(started(name, threads, sizes, environment))
            for name, environment in environments.items()
        }
        steps = {name: functools.partial(take_a_step, way) for name, way in ways.items()}
        taken = take_turns(steps, max(rounds, LEAST_ROUNDS), WARM_UP)
    found = {f"seconds.{name}_default": statistics.median(seconds) for name, seconds in taken.items()}
    for name, way in (("transformer", "shipped"), ("same_transformer", "llama")):
        ratios = [theirs / ours for theirs, ours in zip(taken["hf_llama"], taken[way], strict=True)]
        found[f"spread.{name}_default"] = [round(min(ratios), 3), round(max(ratios), 3)]
        found[f"ratio.{name}_vs_hf_llama_default"] = statistics.median(ratios)
    return found


@contextlib.contextmanager
def started(name: str, threads: int, sizes: dict[str, int], environment: dict[str, str]) -> Iterator[subprocess.Popen]:
    """A process that is ready to take steps."""
    command = [sys.executable, "-m", "train_ways.one_step", name, str(threads), repr(sizes)]
    path = os.pathsep.join([str(Path(__file__).parents[1]), environment.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**environment, "PYTHONPATH": path}
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def take_a_step(process: subprocess.Popen) -> None:
    """Let it take a step, while the others wait for theirs."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    if not process.stdout.readline():
        sys.exit("benchmark: a process of the comparison failed (see above)")
