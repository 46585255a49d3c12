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
    """The version of the registered model `nano-think` that stands for the mixture of this digest, made if there is
    none, with a logged model that names the mixture's folder.

    Nothing is copied: the folder's manifest proves what it holds.
    """
    _make_registered(run)
    if version := _version(run, digest):
        return version
    tags = {"place": str(model.resolve()), "digest": digest, **{name: str(value) for name, value in verdict.items()}}
    logged = run.client.create_logged_model(run.experiment, name="mixture", source_run_id=run.run, tags=tags)
    run.client.finalize_logged_model(logged.model_id, "READY")
    source = model.resolve().as_uri()
    return str(run.client.create_model_version(MODEL, source, run.run, tags, model_id=logged.model_id).version)


def crown(run: "Run", digest: str | None) -> None:
    """Let the alias `champion` stand for the mixture of this digest, if it is registered and the alias is elsewhere."""
    version = _version(run, digest) if digest else None
    if version and str(run.client.get_registered_model(MODEL).aliases.get(CHAMPION)) != version:
        run.client.set_registered_model_alias(MODEL, CHAMPION, version)


def _make_registered(run: "Run") -> None:
    from mlflow.exceptions import MlflowException

    try:
        run.client.create_registered_model(MODEL, description="Mixtures of experts; the alias champion is the best")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _version(run: "Run", digest: str) -> str | None:
    """The oldest version of the mixture of this digest."""
    found = run.client.search_model_versions(f"name = '{MODEL}' and tag.digest = '{digest}'")
    return min((str(one.version) for one in found), key=int, default=None)
