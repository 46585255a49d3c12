"""`nano-think export`: a Hugging Face folder of a trained mixture."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_think.cli.arguments import parse_arguments
from nano_think.core.errors import ArtifactError, UsageError
from nano_think.stages.artifact import Artifact, ancestor, newest

TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class ExportArguments:
    """Write a folder that AutoTokenizer and AutoModelForCausalLM(trust_remote_code=True) load, and compare it."""

    out: Path
    """The folder; it must not exist, or be empty."""
    model: str = "latest"
    """"latest" (the newest finished pipeline under --root) or the folder of a trained router."""
    root: Path = Path("artifacts")
    """Artifact root."""
    mlflow: Path | None = None
    """Also write MLflow's pyfunc (models from code) to this folder, which must not exist."""
    json: bool = False
    """Print one JSON object on the last line."""


def main(arguments: list[str]) -> int:
    wanted = parse_arguments(ExportArguments, "export", arguments)
    from nano_think.export.card import model_card
    from nano_think.export.folder import compare, write_folder
    from nano_think.models.checkpoint import ModelShape
    from nano_think.models.think import NanoThink
    from nano_think.stages.opening import open_model

    opened = open_model(wanted.model, wanted.root)
    artifact, model, shape = opened.artifact, opened.model, opened.shape
    if not isinstance(model, NanoThink) or not isinstance(shape, ModelShape):
        raise UsageError(
            f"{artifact.path}: wanted a mixture, got a chat model with a body of its own; name another model"
        )
    card = model_card(artifact.manifest, _text(artifact), _results(artifact))
    write_folder(wanted.out, model, shape, artifact.path, opened.tokenizer, card)
    if wanted.mlflow:
        from nano_think.stages.tracking_export import save_pyfunc

        save_pyfunc(artifact, wanted.mlflow)
    parity = compare(wanted.out, model, opened.tokenizer)
    if wanted.json:
        print(json.dumps({"folder": str(wanted.out), "logits": parity.logits, "same_ids": parity.same_ids}))
    else:
        print(f"exported to {wanted.out}; largest difference of logits {parity.logits:.1e}")
    if not parity.same_ids or not parity.logits <= TOLERANCE:
        raise ArtifactError(f"{wanted.out}: says something else than the model (wanted a difference up to {TOLERANCE})")
    return 0


def _text(artifact: Artifact) -> dict[str, Any] | None:
    found = ancestor(artifact, "tokens", "ingest")
    return found.summary if found else None


def _results(artifact: Artifact) -> dict[str, Any] | None:
    found = newest(artifact.path.parent.parent, "evaluate", router=artifact)
    return found.summary if found else None
