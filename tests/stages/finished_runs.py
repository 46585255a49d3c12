"""Finished runs of a few files, with figures of one's choice."""

import json

import numpy as np
import pandas as pd

from nano_think.stages.artifact import seal
from nano_think.stages.runs import FinishedRun


def make_run(root, name, bits=1.0, text="text", documents=40, column="calibrated.mixture"):
    """A run whose mixture needs `bits` times as much as a run of 1.0, with a little of each document's own."""
    noise = np.random.default_rng(0).normal(1.0, 0.1, documents)
    own = np.random.default_rng(sum(name.encode())).normal(0.0, 0.001, documents)
    made = {}
    frame = pd.DataFrame({"domain": "d", "bytes": 100, "mixture": 100 * noise * (bits + own)})
    frame[column] = frame["mixture"]
    summary = {"experts": {"e": 2.0}, "uniform": 1.9, "bits_per_byte": bits, "dense": None, "calibrated": None,
               "domains": {"d": {"bits_per_byte": bits}}}  # fmt: skip
    for stage, contents in {"ingest": text, "router": name, "evaluate": name}.items():
        path = root / stage / key_of(stage + contents)
        path.mkdir(parents=True, exist_ok=True)
        (path / "file").write_text(contents)
        if stage == "evaluate":
            frame.to_parquet(path / "documents.parquet")
        if stage == "router":
            (path / "curve.json").write_text(json.dumps([{"tokens": n, "loss": 3 - n / 99} for n in range(0, 99, 9)]))
        made[stage] = seal(path, stage, path.name, {"inputs": {}, "summary": summary})
    path = root / "report" / key_of("report" + name)
    path.mkdir(parents=True, exist_ok=True)
    (path / "report.html").write_text(name)
    about = {"config": {"name": name, "config": {"seed": len(name), "a": {"b": 1}}}, "summary": {}}
    inputs = {stage: one.reference() for stage, one in made.items()}
    return FinishedRun(seal(path, "report", path.name, {"inputs": inputs, **about}))


def key_of(words):
    """A key as artifacts have them."""
    return words.encode().hex()[-16:].rjust(16, "0")
