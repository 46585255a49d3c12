"""From text to packed tokens: nano_think's stages against `datasets` and `tokenizers`, the same documents in both.

    python benchmarks/data.py --sources 'jsonl:PATH/academic/*.jsonl.gz' 'jsonl:PATH/code/*.jsonl.gz' --json

Both ways read, drop exact duplicates, split by hash, train a byte-level BPE with the same pattern and vocabulary size,
and write all ids to Arrow files, with the same number of cores. Each run is a fresh process, the ways take turns,
figures are medians. What a way imports before it begins is not counted, what nano_think imports later is. The plain way
uses its cores in whichever of its two manners was faster in the first round: threads of `tokenizers` or processes of
`datasets.map`. nano_think cleans the text in addition.

- end_to_end, bpe_train: time of the plain way over time of nano_think's. Training reads what its way has stored.
- encode: the same for encoding alone, against `encode_batch`, with one vocabulary, on documents in memory; the ids are
  compared. encode_fast is against `encode_batch_fast`, which leaves the offsets out.
- peak_rss_bytes: the most memory that nano_think's whole process tree held (resident, shared pages counted by each).
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import psutil

from nano_think.data.source import Reading
from nano_think.data.sources import resolve
from nano_think.data.sources.files import matches

WAYS = Path(__file__).parent / "data_ways"
STEPS = ("ingest", "bpe_train", "tokens")
MODES = ("threads", "processes")
ENCODERS = ("encode_batch", "encode_batch_fast")
NEAR = 0.01


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", nargs="+", default=["starter"], help="as nano-think's; jsonl:GLOB for own files")
    parser.add_argument("--vocab-size", type=int, default=32_768)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="cores that each way may use")
    parser.add_argument("--runs", type=int, default=3, help="rounds of each measurement")
    parser.add_argument("--mode", choices=MODES, help="how the plain way uses its cores; left out: the faster one")
    parser.add_argument("--encoder", choices=ENCODERS, default=ENCODERS[0], help="what the plain way encodes with")
    parser.add_argument("--encode-bytes", type=int, default=2**24, help="text for the encoding alone, in bytes")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    return parser.parse_args()


def json_files(specs: list[str], folder: Path) -> list[str]:
    """The files that `jsonl:` sources name; of other sources, files that hold their documents."""
    files = [str(path) for spec in specs if spec.startswith("jsonl:") for path in matches("jsonl", spec[6:])]
    for source in resolve(tuple(spec for spec in specs if not spec.startswith("jsonl:")), Reading()):
        path = folder / f"{source.name.replace('/', '-')}.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for document in source.documents():
                row = {"text": document.text, "source": document.source, "id": document.id}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        files.append(str(path))
    return files


def measure(way: str, job: dict[str, Any]) -> dict[str, Any]:
    """What a way prints, run in a process of its own, with the most memory that it and its children held."""
    threads = str(job["threads"])
    environment = os.environ | {"RAYON_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
    command = [sys.executable, str(WAYS / f"{way}.py"), json.dumps(job)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        peak = Peak(child.pid)
        assert child.stdout
        told = child.stdout.read()
    if child.returncode:
        sys.exit(f"benchmark: {way} ended with {child.returncode}")
    return json.loads(told.splitlines()[-1]) | {"rss": peak.stop()}


class Peak:
    """The most resident memory of a process and its children together, looked at ten times a second."""

    def __init__(self, pid: int):
        self._process, self._most, self._done = psutil.Process(pid), 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._done.wait(0.1):
            total = 0
            try:
                family = [self._process, *self._process.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            for one in family:
                try:
                    total += one.memory_info().rss
                except psutil.Error:
                    continue
            self._most = max(self._most, total)

    def stop(self) -> int:
        self._done.set()
        self._thread.join()
        return self._most


def compare(files: list[str], wanted: argparse.Namespace, folder: Path) -> tuple[list[dict], list[dict], dict]:
    """The runs of nano_think, those of the plain way, and the encoding alone."""
    job = {"files": files, "vocab_size": wanted.vocab_size, "threads": wanted.threads}
    modes = [wanted.mode] if wanted.mode else [*MODES]
    ours: list[dict] = []
    plain: list[dict] = []
    work = folder / "work"
    for number in range(wanted.runs):
        for mode in (*modes, None):
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            way, manner = ("plain", {"mode": mode, "encoder": wanted.encoder}) if mode else ("nano", {})
            run = measure(way, job | {"work": str(work)} | manner) | {"mode": mode}
            (plain if mode else ours).append(run)
            times = "  ".join(f"{step} {run['seconds'][step]:.2f} s" for step in STEPS)
            print(f"round {number + 1}  {mode or way:10s}{times}  {run['rss'] / 1e6:.0f} MB", flush=True)
        modes = [min(plain, key=total)["mode"]]
    plain = [run for run in plain if run["mode"] in modes]
    # nano_think's last run has left its documents and its vocabulary.
    encoding = {"work": str(work), "threads": wanted.threads, "rounds": wanted.runs, "max_bytes": wanted.encode_bytes}
    return ours, plain, measure("encoding", encoding)


def total(run: dict[str, Any]) -> float:
    return sum(run["seconds"].values())


def check_same(ours: list[dict], plain: list[dict]) -> None:
    """Both ways kept the same documents, and made about as many tokens of them."""
    documents = {run["documents"] for run in ours + plain}
    few, many = min(run["tokens"] for run in ours + plain), max(run["tokens"] for run in ours + plain)
    if len(documents) > 1 or many > few * (1 + NEAR):
        sys.exit(f"benchmark: not the same work: documents {sorted(documents)}, tokens from {few} to {many}")


def summary(ours: list[dict], plain: list[dict], encoding: dict[str, Any]) -> dict[str, Any]:
    def times(runs: list[dict]) -> dict[str, float]:
        steps = {step: statistics.median(run["seconds"][step] for run in runs) for step in STEPS}
        return steps | {"end_to_end": statistics.median(map(total, runs))}

    nano, theirs = times(ours), times(plain)
    alone = {name: statistics.median(seconds) for name, seconds in encoding["seconds"].items()}
    return {
        "seconds": {"nano_think": nano, "plain": theirs, "encoding": alone},
        "encode_mb_per_second": {name: encoding["bytes"] / 1e6 / seconds for name, seconds in alone.items()},
        "ratios": {
            "end_to_end": theirs["end_to_end"] / nano["end_to_end"],
            "bpe_train": theirs["bpe_train"] / nano["bpe_train"],
            "encode": alone["encode_batch"] / alone["encode_many"],
            "encode_fast": alone["encode_batch_fast"] / alone["encode_many"],
        },
        "peak_rss_bytes": max(run["rss"] for run in ours),
        "plain_peak_rss_bytes": max(run["rss"] for run in plain),
        "documents": ours[0]["documents"],
        "tokens": {"nano_think": ours[0]["tokens"], "plain": plain[0]["tokens"]},
        "plain_mode": plain[0]["mode"],
    }


def show(found: dict[str, Any]) -> None:
    print(f"\n{'':14s}{'nano_think':>12s}{'plain':>12s}{'ratio':>8s}")
    nano, plain = found["seconds"]["nano_think"], found["seconds"]["plain"]
    for step in nano:
        print(f"{step:14s}{nano[step]:10.2f} s{plain[step]:10.2f} s{plain[step] / nano[step]:8.2f}")
    speed = found["encode_mb_per_second"]
    for name, ratio in (("encode_batch", "encode"), ("encode_batch_fast", "encode_fast")):
        print(
            f"{ratio:12s}{speed['encode_many']:9.2f} MB/s{speed[name]:7.2f} MB/s{found['ratios'][ratio]:8.2f}  {name}"
        )
    print(f"{'peak memory':14s}{found['peak_rss_bytes'] / 1e6:9.0f} MB{found['plain_peak_rss_bytes'] / 1e6:9.0f} MB")
    tokens = found["tokens"]
    print(f"{found['documents']:,} documents, {tokens['nano_think']:,} and {tokens['plain']:,} tokens")


def main() -> None:
    wanted = arguments()
    with tempfile.TemporaryDirectory() as folder:
        files = json_files(wanted.sources, Path(folder))
        print(f"{len(files)} files, {wanted.threads} threads (or processes) each, medians of {wanted.runs}")
        ours, plain, encoding = compare(files, wanted, Path(folder))
    check_same(ours, plain)
    found = summary(ours, plain, encoding)
    found |= {"plain_encoder": wanted.encoder, "threads": wanted.threads, "runs": wanted.runs}
    show(found)
    if wanted.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
