"""Learning from chats, killed or shared among processes: the model is the same."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

from nano_think.models.checkpoint import WEIGHTS
from nano_think.stages.artifact import open_artifact
from tests.conftest import Commands
from tests.flows.conftest import SFT

pytestmark = pytest.mark.slow


def newest(root: Path) -> Path:
    """The folder of the newest chat model under a root."""
    return root / json.loads((root / "chat-latest.json").read_text())["sft"]


def copy_without_model(root: Path, to: Path) -> Path:
    """A root in which everything before the learning from chats is finished already."""
    ignored = shutil.ignore_patterns("sft", "chat_evaluate", "chat_report", "chat-latest.json", ".*", "mlflow*")
    return shutil.copytree(root, to, ignore=ignored)


def test_killed_in_the_middle_and_the_same_digest(chat_run, commands: Commands):
    """kill -9 of every process once a checkpoint is there; the next run goes on from it, not from the start."""
    root = copy_without_model(chat_run[0], commands.folder / "root")
    process = commands.start(*SFT, "--root", root)
    for line in process.stderr:
        if "sft: step " in line and list(root.glob("sft/*/work/checkpoint-*/state.json")):
            break
    for one in commands.processes():
        os.kill(one, signal.SIGKILL)
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL and not (root / "chat-latest.json").exists()
    again = commands(*SFT, "--root", root)
    assert again.returncode == 0 and "transformer: started" not in again.stderr, again.stderr
    assert "sft: goes on from step" in again.stderr
    assert open_artifact(newest(root)).digest == open_artifact(newest(chat_run[0])).digest


def test_two_processes_learn_the_same(chat_run, tmp_path: Path):
    """By `accelerate launch`, in fp32: weights as of one process after five steps, up to what Muon's iteration, which
    is in bfloat16, makes of the last bits of a gradient (docs/LOG.md: 1.8% of the largest entry after 20 steps).
    """
    found = []
    for processes in (1, 2):
        words = ("--base", newest(chat_run[0]), "--compute.dtype", "float32", "--compute.processes", processes)
        words += ("--sft.tokens", 5 * 8 * 64, "--evaluate.items", 2, "--evaluate.chats", 2)
        told = Commands(tmp_path)(*SFT, "--root", tmp_path / str(processes), *words)
        assert told.returncode == 0, told.stderr
        found.append(load_file(newest(tmp_path / str(processes)) / WEIGHTS))
    for name, value in found[0].items():
        assert_close(found[1][name], value, rtol=0, atol=2e-2 * value.abs().max().item(), msg=name)
