"""The process of one training: `accelerate launch -m nano_think.stages.worker FOLDER`.

The folder's work/job.json says what to do. Progress goes to standard output, a line of JSON at a time, and who listens
tells MLflow: importing it would cost every training seconds. Of several processes the first alone writes and speaks,
but for an error, which any of them may have.
"""

import atexit
import contextlib
import gc
import os
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from nano_think.core import interrupts
from nano_think.core.errors import NanoThinkError
from nano_think.core.files import read_json, write_json
from nano_think.core.process import die_with_parent, emit
from nano_think.stages.artifact import open_artifact

if TYPE_CHECKING:
    from nano_think.stages.stage import Inputs
    from nano_think.stages.training import TrainingStage


def main(folder: str) -> int:
    """Do the job in `folder`; the exit code is that of the error, if there is one."""
    die_with_parent()
    # Without it the interpreter spends seconds on looking for garbage among all that torch has made.
    atexit.register(gc.freeze)
    try:
        _work(Path(folder))
        return 0
    except NanoThinkError as error:
        emit({"event": "error", "code": error.exit_code, "message": str(error)})
        return error.exit_code
    except Exception as error:
        traceback.print_exc()
        trace = traceback.format_exc()
        emit({"event": "error", "code": 1, "message": f"{type(error).__name__}: {error}", "trace": trace})
        return 1


def _work(out: Path) -> None:
    # Imported late: these need torch and take seconds, in which the parent may die.
    from nano_think.stages.modules import check_modules
    from nano_think.stages.stage import WORK, making

    job = read_json(out / WORK / "job.json")
    kind: type[TrainingStage] = getattr(import_module(job["module"]), job["stage"])
    check_modules(job["modules"])
    # Until now a signal ended the process at once: there was nothing to save.
    interrupts.install()
    stage = kind(kind.read_config(job["config"]))
    inputs = {name: open_artifact(Path(path)) for name, path in job["inputs"].items()}
    first = not int(os.environ.get("RANK", 0))
    with making(out, stage.name, "training") if first else contextlib.nullcontext():
        _train(stage, inputs, out)


def _train(stage: "TrainingStage", inputs: "Inputs", out: Path) -> None:
    from nano_think.stages.stage import WORK
    from nano_think.stages.training import NothingLeft, Trainer

    if not int(os.environ.get("RANK", 0)):
        emit({"event": "process", "process_id": os.getpid()})
    trainer = Trainer(stage.config, out / WORK, emit)
    try:
        summary = stage.fit(inputs, out, trainer)
    except NothingLeft:
        return
    trainer.write_curves(out)
    write_json(out / WORK / "summary.json", summary)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
