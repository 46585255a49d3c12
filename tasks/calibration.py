"""Fit what makes figures comparable."""

from pathlib import Path

from prefect import task

from nano_think.stages.artifact import Artifact
from nano_think.stages.calibration import CalibrationStage
from nano_think.stages.stage import Context
from tasks import OPTIONS


@task(name="calibration", task_run_name="calibration", **OPTIONS)
def calibration(stage: CalibrationStage, inputs: dict[str, Artifact], root: Path, context: Context) -> Artifact:
    """Fit what makes figures comparable, or return the finished artifact of the same key."""
    return stage.run(root, inputs, context)
