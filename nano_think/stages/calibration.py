"""The mixture, its controls and held-out text -> what makes them comparable: each one's calibration, static weights."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from nano_think.core.config import Config
from nano_think.core.errors import ArtifactError
from nano_think.core.files import read_json, write_json
from nano_think.data.tokens import TokenSet
from nano_think.evaluation.calibration import Calibration, fit_calibration, fit_static
from nano_think.evaluation.documents import split_documents
from nano_think.evaluation.reading import Document, read_states
from nano_think.evaluation.scorers import ROUTER, Controls
from nano_think.experts import Expert
from nano_think.models.chat import Model
from nano_think.models.checkpoint import load_mixture
from nano_think.models.think import NanoThink
from nano_think.stages.artifact import Artifact, ancestor, newest
from nano_think.stages.dense import load_dense
from nano_think.stages.memory import load_on_device
from nano_think.stages.space import Job, expert_modules
from nano_think.stages.stage import Context, Inputs, Stage

FITTED = "calibration.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationConfig(Config):
    """A scale and a bias coefficient for every model alike, fitted on the validation split; static weights, fitted on
    the routing split.
    """

    fit_tokens: int = 16_384
    """Tokens of each of the two splits that are read (tokens)."""

    def __post_init__(self) -> None:
        if self.fit_tokens < 1:
            raise ValueError(f"fit_tokens: wanted at least 1, got {self.fit_tokens}")


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationJob(Job):
    """The calibration stage's configuration."""

    calibration: CalibrationConfig


class CalibrationStage(Stage):
    """Fit what is compared on text that is not the test split."""

    name = "calibration"
    config: CalibrationJob

    def modules(self) -> list[str]:
        return [__name__, "nano_think.stages.memory", "nano_think.stages.dense", *expert_modules()]

    def build(self, inputs: Inputs, out: Path, context: Context) -> dict[str, Any]:
        model = load_on_device(inputs["router"], self.config)
        device, window = model.head.table.device, self.config.space.window
        states, target_N = read_states(model, self._documents(inputs, "router"), window)
        streams_NKD = torch.stack([states[name] for name in model.names], dim=1)
        static = fit_static(model.head, streams_NKD, target_N)
        controls = Controls(dense=_dense(inputs.get("dense")), static=static, rivals=load_rivals(inputs)).to(device)
        states, target_N = read_states(model, self._documents(inputs, "validation"), window, controls)
        fitted = {name: fit_calibration(model.head, hidden_ND, target_N) for name, hidden_ND in states.items()}
        found = {
            "static": dict(zip(model.names, controls.static, strict=True)),
            "calibrations": {name: dataclasses.asdict(one) for name, one in fitted.items()},
        }
        write_json(out / FITTED, found)
        return found | {"fitted_on": len(target_N)}

    def _documents(self, inputs: Inputs, split: str) -> list[Document]:
        most = self.config.calibration.fit_tokens
        found = list(split_documents(TokenSet.open(inputs["tokens"].path, split), most, seed=0))
        if not found:
            raise ArtifactError(
                f"no document of the split {split} has at most {most} tokens; raise calibration.fit_tokens"
            )
        return found


def _dense(artifact: Artifact | None) -> Expert | None:
    return load_dense(artifact) if artifact else None


def load_rivals(inputs: Mapping[str, Artifact]) -> dict[str, NanoThink]:
    """The mixtures among some artifacts that are there to be compared with, by scorer."""
    return {name: load_mixture(one.path)[0] for name, one in inputs.items() if name.startswith(ROUTER)}


def load_controls(
    fitted: Artifact, dense: Artifact | None, model: Model, rivals: Mapping[str, NanoThink] = MappingProxyType({})
) -> Controls:
    """What a mixture is compared with, on the mixture's device."""
    values = read_json(fitted.path / FITTED)
    try:
        static = tuple(values["static"][name] for name in model.names)
        calibrations = {name: Calibration(**one) for name, one in values["calibrations"].items()}
    except (KeyError, TypeError) as error:
        raise ArtifactError(f"{fitted.path / FITTED}: not a calibration ({error}); run the pipeline again") from None
    controls = Controls(dense=_dense(dense), static=static, calibrations=calibrations, rivals=rivals)
    return controls.to(model.head.table.device)


def find_controls(artifact: Artifact, model: Model) -> Controls | None:
    """The controls of the newest calibration that lies beside a mixture and was fitted for it, but for other mixtures;
    None without one.
    """
    fitted = newest(artifact.path.resolve().parent.parent, "calibration", router=artifact)
    if fitted is None:
        return None
    dense = ancestor(fitted.verify(), "dense")
    return load_controls(fitted, dense.verify() if dense else None, model)
