"""From JSON lines to packed ids by `datasets` and `tokenizers`, as somebody who knows them would write it.

    python plain.py JOB

JOB is a JSON object; "mode" says what uses the cores while ids are made, "threads" (of `tokenizers`) or "processes" (of
`datasets.map`), and "encoder" which method of `tokenizers` makes them. The same documents, splits, split pattern,
vocabulary size and start tokens as nano_think's; no cleaning. Prints one JSON object: seconds per step, documents and
tokens.
"""

import hashlib
import itertools
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from nano_think.data.clean import FRACTIONS, SPLITS, split_of_digest
from nano_think.data.tokenizer_file import PATTERN, SPECIALS

STEPS = ("ingest", "bpe_train", "tokens")
ROWS = 1000


def read(files: list[str], cache: Path) -> dict[str, datasets.Dataset]:
    """Every document once, in the split that its hash says."""
    rows = datasets.load_dataset("json", data_files=files, split="train", cache_dir=str(cache))
    rows = rows.select_columns(["text"])
    seen: set[bytes] = set()
    places: dict[str, list[int]] = {split: [] for split in SPLITS}
    place = 0
    for batch in rows.iter(ROWS):
        for text in batch["text"]:
            digest = hashlib.sha256(text.encode()).digest()
            if digest not in seen and text.strip():
                seen.add(digest)
                places[split_of_digest(digest, FRACTIONS)].append(place)
            place += 1
    return {split: rows.select(chosen) for split, chosen in places.items()}


def train(rows: datasets.Dataset, vocab_size: int, path: Path) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((batch["text"] for batch in rows.iter(ROWS)), trainer, length=len(rows))
    tokenizer.save(str(path))
    return tokenizer


def pack(
    rows: datasets.Dataset, tokenizer: tokenizers.Tokenizer, encoder: str, path: Path, processes: int | None
) -> int:
    """Write a row of ids and lengths for every thousand documents, and count the ids."""
    start, width = tokenizer.token_to_id(SPECIALS[0]), "uint16" if tokenizer.get_vocab_size() < 2**16 else "uint32"

    def encode(batch: dict[str, list[str]]) -> dict[str, Any]:
        ids = [[start, *one.ids] for one in getattr(tokenizer, encoder)(batch["text"])]
        return {"tokens": [np.concatenate(ids).astype(width)], "lengths": [[len(one) for one in ids]]}

    columns = {"tokens": datasets.List(datasets.Value(width)), "lengths": datasets.List(datasets.Value("int32"))}
    packed = rows.map(
        encode,
        batched=True,
        batch_size=ROWS,
        remove_columns=rows.column_names,
        features=datasets.Features(columns),
        num_proc=processes,
        cache_file_name=str(path),
    )
    return sum(sum(map(sum, batch["lengths"])) for batch in packed.select_columns(["lengths"]).iter(ROWS))


def run(files: list[str], work: Path, vocab_size: int, threads: int, mode: str, encoder: str) -> dict[str, Any]:
    datasets.disable_progress_bars()
    marks = [time.perf_counter()]
    splits = read(files, work / "cache")
    marks.append(time.perf_counter())
    tokenizer = train(splits["train"], vocab_size, work / "tokenizer.json")
    marks.append(time.perf_counter())
    processes = threads if mode == "processes" and threads > 1 else None
    os.environ["TOKENIZERS_PARALLELISM"] = "false" if processes else "true"
    tokens = 0
    for name, rows in splits.items():
        if len(rows):
            tokens += pack(rows, tokenizer, encoder, work / f"{name}.arrow", processes)
    marks.append(time.perf_counter())
    return {
        "seconds": dict(zip(STEPS, (after - before for before, after in itertools.pairwise(marks)), strict=True)),
        "documents": sum(map(len, splits.values())),
        "tokens": tokens,
    }


if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    work = Path(job.pop("work"))
    print(json.dumps(run(work=work, **job)))
