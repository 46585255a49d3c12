"""Real processes that train something tiny: for kills, and for several at once."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from nano_think.core.process import accelerate_command, child_environment

STEPS = 24
CHILD = """
import json, os, sys
from pathlib import Path
import numpy as np, torch
from accelerate import Accelerator
from nano_think.data.loader import Windows
from nano_think.experts import EXPERTS, build_expert
from nano_think.heads.language import LanguageHead, normalise_table
from nano_think.nn.weights import save_weights
from nano_think.training.loop import TrainConfig, _Run, seed_everything, train
from nano_think.training.objectives.expert import ExpertObjective

out, name, dropout = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
torch.set_num_threads(1)
accelerator = Accelerator(cpu=True)
first = accelerator.is_main_process
tokens = np.random.default_rng(0).integers(0, 49, 4000)
tokens[::37] = 49
windows = Windows(tokens, 12, 8, seed=3)
seed_everything(5)
head = LanguageHead(normalise_table(torch.randn(50, 16)), torch.zeros(50))
expert = build_expert(name, EXPERTS[name].Config(n_layers=2, dropout=dropout), 16)
objective = ExpertObjective(expert, head, 49)
config = TrainConfig(tokens=12 * 8 * {steps}, batch=8, save_every=-1.0, log_every=3)
_Run(objective, windows, config, accelerator, out, lambda event: None, 1)._differentiate(0)
if first:
    grads = {key: p.grad for key, p in objective.named_parameters() if p.grad is not None}
    save_weights(out / "grads.safetensors", grads)
objective.zero_grad()

def log(event):
    print(json.dumps(event | {"pid": os.getpid()}), flush=True)

train(objective, windows, config, accelerator, out / "work", log, 1)
if first:
    save_weights(out / "weights.safetensors", expert.state_dict())
accelerator.end_training()
"""


def launch(
    folder: Path, out: str, processes: int, dropout: float = 0.0, expert: str = "transformer"
) -> subprocess.Popen[str]:
    """A tiny expert's training in so many real processes, which save after every step."""
    (folder / "tiny_child.py").write_text(CHILD.replace("{steps}", str(STEPS)))
    (folder / out).mkdir(exist_ok=True)
    arguments = (str(folder / out), expert, str(dropout))
    command = [sys.executable, "-m", "tiny_child", *arguments]
    if processes > 1:
        command = accelerate_command("tiny_child", *arguments, processes=processes)
    environment = child_environment(1, {})
    environment["PYTHONPATH"] = os.pathsep.join([str(folder), environment["PYTHONPATH"]])
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
    return subprocess.Popen(command, env=environment, text=True, start_new_session=True, **pipes)


def end(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """Let it end well; its events."""
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0, out[-3000:]
    return [json.loads(line) for line in out.splitlines() if line.startswith('{"event"')]


def read_until_saved(process: subprocess.Popen[str], step: int) -> int:
    """Listen until the checkpoint of a step, or of a later one, is written; the process id of who wrote it."""
    for line in process.stdout or ():
        event = json.loads(line) if line.startswith('{"event"') else {}
        if event.get("event") == "saved" and event["step"] >= step:
            return event["pid"]
    raise AssertionError(f"it never saved step {step}")
