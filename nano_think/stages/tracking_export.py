"""Writing a mixture as MLflow's pyfunc."""

from pathlib import Path

import mlflow

from nano_think.core.errors import UsageError
from nano_think.stages.artifact import Artifact

CODE = Path(__file__).with_name("tracking_model.py")
PARAMS = {"max_new_tokens": 64, "chat": False}


def save_pyfunc(artifact: Artifact, out: Path) -> None:
    """Write `out`, which must not exist, so that `mlflow.pyfunc.load_model(out).predict(["In the"])` writes on.

    It holds the model's folder and a few lines of code; the library must be installed where it is loaded.
    """
    if out.exists():
        raise UsageError(f"--mlflow {out}: there already; choose a folder that does not exist")
    signature = mlflow.models.infer_signature(["In the beginning"], ["God created"], PARAMS)
    mlflow.pyfunc.save_model(
        out, python_model=CODE, artifacts={"model": str(artifact.path)}, signature=signature, pip_requirements=[]
    )
