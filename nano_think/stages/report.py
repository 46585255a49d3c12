"""Everything that was made -> one page to look at."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nano_think.core.config import Config
from nano_think.core.files import read_json, sha256, write_json, write_text
from nano_think.evaluation.scorers import ROUTER
from nano_think.stages.artifact import Artifact
from nano_think.stages.evaluate import RESULTS, SAMPLES
from nano_think.stages.stage import Context, Inputs, Stage
from nano_think.stages.training import read_curve

if TYPE_CHECKING:
    from nano_think.report import ReportData

PAGE, PICTURES, TABLE, ROWS = "report.html", "pictures", "ablation.md", "ablation.json"
FORM = Path(__file__).parents[1] / "report"


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportJob(Config):
    """The report stage's configuration: what the run is called and all that it was told."""

    name: str
    config: dict[str, Any]


class Report(Stage):
    """Write report.html, which needs nothing beside itself, its pictures as PNG, and the ablation table as Markdown and
    JSON.
    """

    name = "report"
    config: ReportJob

    def fingerprint(self) -> Any:
        """The page's form and style, which no module holds."""
        return {file.name: sha256(file) for file in sorted(FORM.iterdir()) if file.suffix in (".css", ".html")}

    def build(self, inputs: Inputs, out: Path, context: Context) -> dict[str, Any]:
        # Drawing is slow to import, and a run that has its report already draws nothing.
        from nano_think.report import render, write_pictures
        from nano_think.report.ablation import ablation, markdown, rows

        data = collect(self.config, inputs, context.fresh)
        write_text(out / PAGE, render(data))
        (out / PICTURES).mkdir(exist_ok=True)
        pictures = write_pictures(data, out / PICTURES)
        shown = ablation(data)
        if shown:
            write_text(out / TABLE, markdown(shown) + "\n")
            write_json(out / ROWS, {"rows": rows(data), "costs": data.costs, "dense": data.dense})
        return {"page": PAGE, "pictures": [picture.name for picture in pictures]}


def collect(job: ReportJob, inputs: Inputs, fresh: Collection[str] = ()) -> "ReportData":
    """What the report shows, read off the artifacts.

    fresh: the stages that had nothing to do in the run that makes the report.
    """
    from nano_think.report import ReportData

    manifests = {name: artifact.manifest for name, artifact in inputs.items()}
    summaries = {name: manifest["summary"] for name, manifest in manifests.items()}
    trained = [name for name, summary in summaries.items() if "training" in summary]
    results = read_json(inputs["evaluate"].path / RESULTS)
    by_domain = {domain: part["weights"] for domain, part in results["domains"].items()}
    return ReportData(
        preset=job.name,
        created=max(manifest["finished"] for manifest in manifests.values()),
        seconds=sum(manifest["seconds"] for manifest in manifests.values()),
        sources=summaries["ingest"]["sources"],
        splits=summaries["ingest"]["splits"],
        left_out=summaries["ingest"].get("left_out"),
        cleaning=summaries["ingest"]["cleaning"],
        lengths=summaries["ingest"].get("lengths"),
        tokens=summaries["tokens"]["splits"],
        vocabulary=summaries["tokens"]["vocab_size"],
        curves={name: read_curve(inputs[name]) for name in trained},
        parameters=summaries["router"]["parameters"],
        costs=_costs(manifests, list(results["experts"])),
        dense=_dense(summaries.get("dense")),
        results=results | {"routing": {**(results.get("routing") or {}), "by_domain": by_domain}},
        samples=read_json(inputs["evaluate"].path / SAMPLES),
        experts=list(results["experts"]),
        times={name: {"seconds": one["seconds"], "fresh": name in fresh} for name, one in manifests.items()},
        config=job.config,
        compute={name: summaries[name]["compute"] for name in trained},
        artifacts={name: _reference(artifact) for name, artifact in inputs.items()},
        versions=manifests["evaluate"]["made_by"],
    )


def _costs(manifests: Mapping[str, Any], members: Sequence[str]) -> dict[str, Any]:
    """What each row of the ablation table costs."""
    from nano_think.report.costs import costs

    summaries = {name: manifest["summary"] for name, manifest in manifests.items()}
    rivals = {name: list(manifests[name]["config"]["members"]) for name in manifests if name.startswith(ROUTER)}
    # Of experts and of the control it is a number, of a mixture that of each part.
    told = {name: summary["parameters"] for name, summary in summaries.items() if "parameters" in summary}
    alone = {name: parts["router"] if name in rivals else parts for name, parts in told.items() if name != "router"}
    return costs(
        members,
        parameters=alone | told["router"],
        flops={name: summary["flops"] for name, summary in summaries.items() if "flops" in summary},
        seconds={name: manifest["seconds"] for name, manifest in manifests.items()},
        rivals=rivals,
    )


def _dense(summary: Mapping[str, Any] | None) -> dict[str, Any]:
    if summary is None:
        return {}
    kept = {name: summary[name] for name in ("parameters", "flops", "epochs", "shape", "mixture")}
    return kept | {"tokens": summary["training"]["tokens"]}


def _reference(artifact: Artifact) -> dict[str, str]:
    return {"key": artifact.key, "digest": artifact.digest}
