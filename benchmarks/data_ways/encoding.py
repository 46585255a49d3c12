"""Encoding alone, the same documents and vocabulary, in turn in one process: `python encoding.py JOB`.

Prints one JSON object: seconds of each way in each round, and bytes of text.
"""

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from nano_think.data.shards import sample_texts
from nano_think.data.tokenizer import Tokenizer
from nano_think.data.tokens import GROUP_BYTES


def groups(texts: list[str]) -> list[list[str]]:
    """Neighbours of about `GROUP_BYTES` together, as the token step takes them."""
    found: list[list[str]] = [[]]
    size = 0
    for text in texts:
        if size > GROUP_BYTES:
            found.append([])
            size = 0
        found[-1].append(text)
        size += len(text.encode())
    return found


def ways(folder: Path, threads: int, texts: list[str]) -> dict[str, Callable[[], list[Any]]]:
    ours, plain = Tokenizer.load(folder), tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    plain.encode_special_tokens = True
    batches = groups(texts)

    def many() -> list[Any]:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(ours.encode_many, batches))

    return {
        "encode_many": many,
        "encode_batch": lambda: [plain.encode_batch(batch) for batch in batches],
        "encode_batch_fast": lambda: [plain.encode_batch_fast(batch) for batch in batches],
    }


def same_ids(made: dict[str, list[Any]], start: int) -> bool:
    ours = np.concatenate([ids for ids, _ in made["encode_many"]])
    ours = ours[ours != start]
    theirs = [np.concatenate([one.ids for batch in made[name] for one in batch] or [[]]) for name in list(made)[1:]]
    return all(np.array_equal(ours, ids) for ids in theirs)


def run(work: Path, threads: int, rounds: int, max_bytes: int) -> dict[str, Any]:
    texts = list(sample_texts(work / "documents", "train", max_bytes))
    folder = work / "tokenizer"
    seconds: dict[str, list[float]] = {}
    for number in range(rounds):
        made: dict[str, list[Any]] = {}
        for name, way in ways(folder, threads, texts).items():
            started = time.perf_counter()
            made[name] = way()
            seconds.setdefault(name, []).append(time.perf_counter() - started)
        assert number or same_ids(made, Tokenizer.load(folder).bos), "the two ways gave different ids"
    return {"seconds": seconds, "bytes": sum(len(text.encode()) for text in texts)}


if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    work = Path(job.pop("work"))
    print(json.dumps(run(work=work, **job)))
