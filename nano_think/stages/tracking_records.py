"""What MLflow is told of a run beside its figures: texts with digests, samples, the model and whether it leads."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nano_think.stages.tracking import Run

MODEL, CHAMPION = "nano-think", "champion"


def log_text(run: "Run", sources: Sequence[Mapping[str, Any]], digest: str) -> None:
    """Each source of the text as a dataset of the run; MLflow keeps 36 letters of a digest."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = [
        DatasetInput(
            Dataset(
                name=str(one["name"])[:500], digest=digest[:36], source_type="nano_think", source=str(one["origin"])
            ),
            [InputTag("mlflow.data.context", "training"), InputTag("licence", str(one["licence"])[:500])],
        )
        for one in sources
    ]
    run.client.log_inputs(run.run, inputs)


def log_samples(run: "Run", samples: Sequence[Mapping[str, Any]]) -> None:
    """A table of what the mixture wrote on from its prompts."""
    rows = {name: [one[name] for one in samples] for name in ("prompt", "text", "seed", "temperature")}
    run.client.log_table(run.run, rows, "samples_table.json")


def register(run: "Run", model: Path, digest: str, verdict: Mapping[str, Any]) -> str:
    """A logged model that names the mixture's folder, and a version of the registered model `nano-think`; the alias
    `champion` moves to it if `verdict["moved"]`. The version.

    Nothing is copied: the folder's manifest proves what it holds.
    """
    from mlflow.exceptions import MlflowException

    tags = {"place": str(model.resolve()), "digest": digest, **{name: str(value) for name, value in verdict.items()}}
    logged = run.client.create_logged_model(run.experiment, name="mixture", source_run_id=run.run, tags=tags)
    run.client.finalize_logged_model(logged.model_id, "READY")
    try:
        run.client.create_registered_model(MODEL, description="Mixtures of experts; the alias champion is the best")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = model.resolve().as_uri()
    made = run.client.create_model_version(MODEL, source, run.run, tags, model_id=logged.model_id)
    if verdict.get("moved"):
        run.client.set_registered_model_alias(MODEL, CHAMPION, made.version)
    return str(made.version)
