"""From JSON lines to packed ids by nano_think's stages: `python nano.py JOB`, JOB being a JSON object.

Prints one JSON object: seconds per step, documents and tokens.
"""

import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

from nano_think.data.ingest import IngestConfig, ingest
from nano_think.data.shards import sample_texts
from nano_think.data.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer
from nano_think.data.tokens import write_tokens

STEPS = ("ingest", "bpe_train", "tokens")


def run(files: list[str], work: Path, vocab_size: int, threads: int) -> dict[str, Any]:
    """What the stages ingest, tokenizer and tokens call."""
    documents, vocabulary = work / "documents", work / "tokenizer"
    config = TokenizerConfig(vocab_size=vocab_size)
    marks = [time.perf_counter()]
    summary = ingest(IngestConfig(sources=tuple(f"jsonl:{file}" for file in files)), documents, workers=threads)
    marks.append(time.perf_counter())
    train_tokenizer(config, sample_texts(documents, "train", config.max_train_bytes), vocabulary)
    marks.append(time.perf_counter())
    packed = write_tokens(documents, Tokenizer.load(vocabulary), work / "tokens", threads)
    marks.append(time.perf_counter())
    return {
        "seconds": dict(zip(STEPS, (after - before for before, after in itertools.pairwise(marks)), strict=True)),
        "documents": sum(split["documents"] for split in summary["splits"].values()),
        "tokens": sum(split["tokens"] for split in packed["splits"].values()),
    }


if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    work = Path(job.pop("work"))
    print(json.dumps(run(work=work, **job)))
