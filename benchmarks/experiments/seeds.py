"""Finished runs that differ in their seed alone, in one table: every row of a run's ablation table, seed by seed.

    for seed in 1 2 3; do nano-think run --preset micro --controls all --seed $seed --root artifacts/seed-$seed; done
    python benchmarks/experiments/seeds.py artifacts/seed-1 artifacts/seed-2 artifacts/seed-3 --out docs/seeds.md

Calibrated bits per byte of the test documents; differences are means over seeds with their 95% interval over documents
(bootstrap, paired) and the smallest and largest seed. The best expert is each run's own. Rows with a memory have a
table of their own, beside the mixture without one: no other row has a memory. The last table is of the tokens behind
a document's first window alone: what the trained scratch memory changes there, and shuffled.
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from fits import change
from tables import markdown, told

from nano_think.evaluation.ablation import MEMORIES, NOT_ROWS
from nano_think.evaluation.scorers import CALIBRATED
from nano_think.evaluation.scratch import LATE
from nano_think.stages.artifact import newest
from nano_think.stages.evaluate import DOCUMENTS

BEST, MIXTURE, DENSE = "best expert", "mixture", "dense"
WEIGHT = "weight."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", type=Path, nargs="+", help="artifact roots, one for each seed; the newest run of each")
    parser.add_argument("--out", type=Path, help="where the tables go, as Markdown")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    wanted = parser.parse_args()
    table = compare([documents_of(root) for root in wanted.roots])
    lines = [*rows_table(table), "", *memories_table(table), "", *late_table(table)]
    print("\n".join(lines))
    if wanted.out:
        wanted.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if wanted.json:
        print(json.dumps(table))


def documents_of(root: Path) -> pd.DataFrame:
    """Nats of every test document by scorer, of the newest evaluation below a root."""
    found = newest(root, "evaluate")
    if found is None:
        raise SystemExit(f"benchmark: {root}: holds no finished evaluation; run nano-think run --root {root} first")
    return pd.read_parquet(found.path / DOCUMENTS)


def compare(frames: Sequence[pd.DataFrame]) -> dict[str, Any]:
    """Plain JSON: {"documents", "rows": {name: {"bits_per_byte", "mixture", "best expert", "dense"}},
    "memories": {name: {"bits_per_byte", "off"}}, "late"}. Of a row differences are the mixture's
    against it, its own against the best expert and against dense; of a mixture with a memory its own against the
    mixture without.
    """
    first = frames[0]
    if any(not frame[list(NOT_ROWS)].equals(first[list(NOT_ROWS)]) for frame in frames):
        raise SystemExit("benchmark: the runs were evaluated on different documents; differ in nothing but --seed")
    columns = set.intersection(*(set(frame) for frame in frames))
    members = [name.removeprefix(WEIGHT) for name in first if name.startswith(WEIGHT)]
    if not members or any(CALIBRATED + name not in columns for name in members):
        raise SystemExit("benchmark: the runs are not calibrated, or of other experts; differ in nothing but --seed")
    names = [name.removeprefix(CALIBRATED) for name in first if name in columns and name.startswith(CALIBRATED)]
    nats = {
        name: [frame[CALIBRATED + name].to_numpy(float) for frame in frames]
        for name in names if not name.startswith(LATE)
    }  # fmt: skip
    nats[BEST] = [min((frame[CALIBRATED + name].to_numpy(float) for name in members), key=np.sum) for frame in frames]
    bits = math.log(2) * first["bytes"].sum()

    def against(ours: str, theirs: str) -> list[float] | None:
        if not {ours, theirs} <= set(nats) or all(map(np.array_equal, nats[ours], nats[theirs])):
            return None
        return list(change(nats[ours], nats[theirs]))

    scored = {name: [float(one.sum() / bits) for one in values] for name, values in nats.items()}
    rows = {
        name: {
            "bits_per_byte": scored[name], MIXTURE: against(MIXTURE, name), BEST: against(name, BEST),
            DENSE: against(name, DENSE),
        }
        for name in nats if not name.startswith(MEMORIES)
    }  # fmt: skip
    memories = {
        name: {"bits_per_byte": scored[name], "off": against(name, MIXTURE)}
        for name in nats if name.startswith(MEMORIES)
    }  # fmt: skip
    return {"documents": len(first), "rows": rows, "memories": memories, "late": late_of(frames, columns)}


def late_of(frames: Sequence[pd.DataFrame], columns: set[str]) -> dict[str, Any] | None:
    """What remembering what lies beyond the window changes behind the first window: {"documents", "memory", ...}."""
    off, *others = (f"{CALIBRATED}{LATE}{name}" for name in ("off", "memory", "shuffled"))
    if not {off, *others} <= columns:
        return None
    long = [frame[frame[off] > 0] for frame in frames]
    if not len(long[0]):
        return None
    without = [frame[off].to_numpy(float) for frame in long]
    return {"documents": len(long[0])} | {
        name.rpartition(".")[2]: list(change([frame[name].to_numpy(float) for frame in long], without))
        for name in others
    }


def rows_table(table: dict[str, Any]) -> list[str]:
    """Every system, in the order of a run's own table."""
    head = ("system", "bits per byte by seed", "the mixture against it", "against the best expert", "against dense")
    return markdown(
        head,
        [
            [name, by_seed(row), *map(told, (row[MIXTURE], row[BEST], row[DENSE]))]
            for name, row in table["rows"].items()
        ],
    )  # fmt: skip


def memories_table(table: dict[str, Any]) -> list[str]:
    """The mixture with each memory, and with its shuffled control."""
    head = ("the mixture with", "bits per byte by seed", "against no memory")
    rows = [[name, by_seed(row), told(row["off"])] for name, row in table["memories"].items()]
    return markdown(head, rows) if rows else []


def by_seed(row: dict[str, Any]) -> str:
    return " / ".join(f"{value:.3f}" for value in row["bits_per_byte"])


def late_table(table: dict[str, Any]) -> list[str]:
    """The tokens behind a document's first window, in one row."""
    late = table["late"]
    if not late:
        return []
    head = ("documents beyond a window", "remembered", "shuffled")
    return markdown(head, [[str(late["documents"]), told(late["memory"]), told(late["shuffled"])]])


if __name__ == "__main__":
    main()
