"""`nano-think lineage ARTIFACT`: what it was made of, back to the text."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from nano_think.cli.arguments import parse_arguments
from nano_think.core.console import clean
from nano_think.stages.lineage import Link, find_artifact, sources, trace


@dataclass(frozen=True, kw_only=True)
class LineageArguments:
    """What an artifact was made of, stage by stage back to the text; every file on the way is verified."""

    artifact: Annotated[str, tyro.conf.Positional]
    """A folder, "stage/key" (the beginning of the key is enough), or a stage of the newest finished pipeline."""
    root: Path = Path("artifacts")
    """Artifact root."""
    format: Literal["text", "mermaid", "json"] = "text"
    """A tree for the terminal, Mermaid, or one JSON object on the last line."""


def main(arguments: list[str]) -> int:
    wanted = parse_arguments(LineageArguments, "lineage", arguments)
    links = trace(find_artifact(wanted.artifact, wanted.root))
    if wanted.format == "json":
        print(json.dumps(_as_json(links)))
    elif wanted.format == "mermaid":
        lines = [f"    {made} --> {place}" for place, link in links.items() for made in link.inputs.values()]
        print("\n".join(["flowchart TD", *(lines or [f"    {next(iter(links))}"])]))
    else:
        print("\n".join(_tree(links)))
    return 0


def _as_json(links: dict[str, Link]) -> dict[str, Any]:
    rows = []
    for place, link in links.items():
        about = {name: link.artifact.manifest.get(name) for name in ("finished", "seconds", "made_by", "config")}
        rows.append({"artifact": place, "digest": link.artifact.digest, "inputs": link.inputs, **about})
    return {"artifacts": rows, "sources": list(sources(links))}


def _tree(links: dict[str, Link]) -> list[str]:
    """Each artifact once with what it was made of below it; where it comes again, its name alone."""
    lines, told = [], set()

    def add(place: str, head: str, below: str) -> None:
        link = links[place]
        known = place in told
        told.add(place)
        more = "" if known else f"  {link.artifact.digest[:12]}  {link.artifact.manifest.get('finished', '')}"
        lines.append(f"{head}{place}{more}" + (" (above)" if known and link.inputs else ""))
        inputs = [] if known else list(link.inputs.values())
        for made in inputs:
            last = made == inputs[-1]
            add(made, below + ("└─ " if last else "├─ "), below + ("   " if last else "│  "))

    add(next(iter(links)), "", "")
    return [*lines, "", *(_source(one) for one in sources(links))]


def _source(one: dict[str, Any]) -> str:
    return clean(f"text  {one['name']}  {one['domain']}, {one['licence']}  {one['origin']}").replace("\n", " ")
