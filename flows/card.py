"""A run as a page of Markdown and as tables: plain text and rows, for whoever shows them."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import yaml

from nano_think.core.progress import format_seconds
from nano_think.stages.artifact import Artifact
from nano_think.stages.report import TABLE

Results = Mapping[str, Any]
UP_TO_DATE = "up to date: same settings, inputs and code"


def card(
    name: str, settings: Mapping[str, Any], artifacts: Mapping[str, Artifact], begun: datetime,
    elsewhere: Mapping[str, str],
) -> str:  # fmt: skip
    """What the run was told, what it made, what it found in place, and what came out.

    begun: what was finished before was found in place. elsewhere: links by what they lead to.
    """
    parts = [f"# {name}"]
    if "evaluate" in artifacts:
        parts.append(_headline(artifacts["evaluate"].summary))
    parts.append("\n".join(f"- {what}: {link}" for what, link in elsewhere.items()))
    parts += ["## Stages", _table(("stage", "", "key", "contents"), stage_rows(artifacts, begun))]
    if "report" in artifacts and (artifacts["report"].path / TABLE).is_file():
        parts += ["## Results", (artifacts["report"].path / TABLE).read_text(encoding="utf-8").strip()]
    if "ingest" in artifacts:
        parts += [
            "## Text",
            _table(("source", "domain", "documents", "bytes", "licence"), _sources(artifacts["ingest"])),
        ]
    shown = yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True).strip()
    return "\n\n".join([*filter(None, parts), "## Settings", f"```yaml\n{shown}\n```"]) + "\n"


def _headline(results: Results) -> str:
    best = min(results["experts"], key=results["experts"].get)
    alone = f"best expert ({best}) {results['experts'][best]:.3f}"
    dense = "" if results.get("dense") is None else f", dense control {results['dense']:.3f}"
    tested = f"{results['documents']:,} held-out documents"
    return f"Mixture **{results['bits_per_byte']:.3f}** bits per byte; {alone}{dense}; {tested}, memory off."


def stage_rows(artifacts: Mapping[str, Artifact], begun: datetime) -> Iterator[Sequence[str]]:
    """Stage, what became of it, key, and the digest of its files."""
    for name, artifact in artifacts.items():
        manifest = artifact.manifest
        # Manifests tell whole seconds.
        fresh = datetime.fromisoformat(manifest["finished"]) < begun.replace(microsecond=0)
        became = UP_TO_DATE if fresh else f"made in {format_seconds(manifest['seconds'])}"
        yield name, became, f"`{artifact.key}`", f"`{artifact.digest[:16]}`"


def _sources(ingest: Artifact) -> Iterator[Sequence[str]]:
    for source in ingest.summary["sources"]:
        counts = f"{source['documents']:,}", f"{source['bytes']:,}"
        yield source["name"], source["domain"], *counts, source["licence"] or ""


def _table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def result_rows(results: Results) -> list[dict[str, Any]]:
    """Bits per byte: a row for each text, a column for each model."""
    rows = []
    for text, part in [*results["domains"].items(), ("all", results)]:
        models = {**part["experts"], "plain average": part["uniform"], "mixture": part["bits_per_byte"]}
        models |= {} if part.get("dense") is None else {"dense control": part["dense"]}
        rows.append({"text": text, "bytes": part["bytes"], **{name: round(value, 4) for name, value in models.items()}})
    return rows


def ablation_rows(results: Results) -> list[dict[str, Any]]:
    """Each way to mix, calibrated and not, and how far it is from the best expert, in percent with its interval."""
    return [
        {
            "model": row["scorer"],
            "plain": round(row["bits_per_byte"], 4),
            "calibrated": None if row["calibrated"] is None else round(row["calibrated"], 4),
            **{f"against {other.replace('_', ' ')}": _percent(compared) for other, compared in row["against"].items()},
        }
        for row in (results.get("ablation") or {}).get("rows", ())
    ]


def _percent(compared: Mapping[str, float] | None) -> str:
    if not compared:
        return ""
    change, low, high = (100 * compared[part] for part in ("change", "low", "high"))
    return f"{change:+.2f}% ({low:+.2f} to {high:+.2f})"
