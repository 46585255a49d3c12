"""The verbs that need Prefect. It is imported only when one of them runs."""

import json
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from nano_think.cli.verbs import Verb

if TYPE_CHECKING:
    from nano_think.stages.artifact import Artifact

RUN = Verb(
    "the whole pipeline: text -> experts -> mixture -> report; what is finished is not done again", "flows.cli:run"
)


def run(arguments: list[str]) -> int:
    """`nano-think run`: without a server of the user's."""
    import yaml

    from nano_think.cli.arguments import parse_arguments, pipeline_defaults
    from nano_think.core.config import to_dict
    from nano_think.stages.session import check

    preset, defaults = pipeline_defaults(arguments, "micro")
    kind = _arguments_kind()
    wanted = parse_arguments(kind, "run", arguments, kind(preset=preset, pipeline=defaults))
    if wanted.print_config:
        print(yaml.safe_dump(to_dict(wanted.pipeline), sort_keys=False, allow_unicode=True), end="")
        return 0
    check(wanted.root, wanted.pipeline)
    artifacts = run_locally(preset, to_dict(wanted.pipeline), wanted.root)
    _tell(artifacts, wanted.root, wanted.json)
    return 0


def _arguments_kind() -> type:
    import tyro

    from nano_think.stages.pipeline import PipelineConfig

    @dataclass(frozen=True, kw_only=True)
    class RunArguments:
        """Train a mixture from text and report on it; what is finished already is not done again.

        Any setting below can be given as a flag, in a YAML file with --config, or both: default < preset < file <
        flags.
        --sources is short for --ingest.sources, --offline-ok is short for --ingest.offline-ok.
        """

        preset: str = "micro"
        """Which settings to start from: nano (a minute, for tests), micro (a laptop), seed (one consumer GPU)."""
        config: Path | None = None
        """YAML file of settings laid over the preset."""
        root: Path = Path("artifacts")
        """Folder that all artifacts go to; a second run in it goes on where the first one stopped."""
        print_config: bool = False
        """Print the settings that result, as YAML, and do nothing."""
        json: bool = False
        """Print one JSON object with the places and figures of the run on the last line."""
        pipeline: Annotated[PipelineConfig, tyro.conf.arg(name="")] = field(default_factory=PipelineConfig)
        """Everything that the run depends on."""

    return RunArguments


def run_locally(preset: str, overrides: dict[str, Any], root: Path) -> "dict[str, Artifact]":
    """Run the full pipeline on Prefect's temporary API."""
    from flows.local import temporary_api

    with temporary_api(root) as wait_for_api:
        from flows.full_pipeline import full_pipeline
        from nano_think.stages.tracking import make_store

        make_store(root)
        wait_for_api()
        return full_pipeline(preset=preset, overrides=overrides, root=str(root))


def _tell(artifacts: "dict[str, Artifact]", root: Path, as_json: bool) -> None:
    results = artifacts["evaluate"].summary
    report, model = artifacts["report"].path / "report.html", artifacts["router"].path
    best, dense = min(results["experts"], key=results["experts"].get), results["dense"]
    control = "" if dense is None else f"; dense control {dense:.3f}"
    alone = f"best expert ({best}) {results['experts'][best]:.3f}"
    print(f"mixture {results['bits_per_byte']:.3f} bits per byte; {alone}{control}")
    table = report.with_name("ablation.md")
    if table.is_file():
        print(f"\n{table.read_text(encoding='utf-8')}")
    print(f"report  {report}")
    print(f"model   {model}")
    where = "" if root == Path("artifacts") else f" --root {shlex.quote(str(root))}"
    print(f'talk    nano-think generate --model latest{where} --prompt "In the beginning"')
    if as_json:
        keys = {name: artifact.key for name, artifact in artifacts.items()}
        print(json.dumps({"model": str(model), "report": str(report), "artifacts": keys, "results": results}))
    sys.stdout.flush()
