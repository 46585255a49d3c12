"""The verbs that need Prefect. It is imported only when one of them runs."""

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nano_think.cli.verbs import Verb

if TYPE_CHECKING:
    from nano_think.stages.artifact import Artifact

RUN = Verb(
    "the whole pipeline: text -> experts -> mixture -> report; what is finished is not done again", "flows.cli:run"
)
SWEEP = Verb("a run for each combination of some settings' values, and a table of them", "flows.sweep:sweep")
UP = Verb("start Prefect's server with a worker, and MLflow's pages, in the background", "flows.up:up")
DOWN = Verb("stop what up has started", "flows.up:down")


def run(arguments: list[str]) -> int:
    """`nano-think run`: without a server of the user's."""
    from nano_think.cli.pipeline import RunArguments, pipeline_arguments
    from nano_think.core.config import to_dict
    from nano_think.stages.outlook import ready
    from nano_think.stages.session import check_room, check_sources, hold

    wanted = pipeline_arguments(RunArguments, "run", arguments)
    if wanted.print_config:
        import yaml

        print(yaml.safe_dump(to_dict(wanted.pipeline), sort_keys=False, allow_unicode=True), end="")
        return 0
    if wanted.dry_run:
        from nano_think.cli.plan import tell

        tell(wanted)
        return 0
    nodes = wanted.nodes()
    chosen = wanted.selection.choose(nodes)
    check_sources(wanted.pipeline)
    with hold(wanted.root):
        check_room(wanted.root)
        # Said before anything is started, and once more by the flow, which others call too.
        ready(nodes, wanted.root, chosen)
        select = to_dict(wanted.selection)
        artifacts = run_locally(wanted.preset, to_dict(wanted.pipeline), wanted.root, select)
    _tell(artifacts, wanted.root, wanted.json)
    return 0


def run_locally(
    preset: str, overrides: dict[str, Any], root: Path, select: dict[str, Any] | None = None
) -> "dict[str, Artifact]":
    """Run the full pipeline, or the stages that `select` chooses, here: told to the server of `up`, or a temporary."""
    from flows.local import prefect_api

    with prefect_api(root) as wait_for_api:
        from flows.full_pipeline import full_pipeline
        from nano_think.stages.tracking_store import make_store

        make_store(root)
        wait_for_api()
        return full_pipeline(preset=preset, overrides=overrides, root=str(root), select=select)


def _tell(artifacts: "dict[str, Artifact]", root: Path, as_json: bool) -> None:
    if "report" not in artifacts:
        _tell_part(artifacts, as_json)
        return
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


def _tell_part(artifacts: "dict[str, Artifact]", as_json: bool) -> None:
    """Of a run that was not asked for a report."""
    for name, artifact in artifacts.items():
        print(f"{name:<12} {artifact.path}")
    if as_json:
        print(json.dumps({"artifacts": {name: artifact.key for name, artifact in artifacts.items()}}))
    sys.stdout.flush()
