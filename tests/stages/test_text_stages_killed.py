"""Ingestion, vocabulary and tokens survive kill -9: the next run ends with the digests of an undisturbed one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nano_think.core.process import child_environment
from nano_think.stages.artifact import MANIFEST, open_artifact

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

STEPS = ("ingest", "tokenizer", "tokens")
RUN = """
import sys
from pathlib import Path
from nano_think.data import reading
from nano_think.data.ingest import IngestConfig
from nano_think.data.tokenizer import TokenizerConfig
from nano_think.stages.ingest import Ingest
from nano_think.stages.tokenizer import TrainTokenizer
from nano_think.stages.tokens import Tokens, TokensConfig

reading.WORTH_A_PROCESS = 0
root = Path(sys.argv[1])
text = Ingest(IngestConfig(sources=("starter",))).run(root, {})
words = TrainTokenizer(TokenizerConfig(vocab_size=2048)).run(root, {"ingest": text})
Tokens(TokensConfig()).run(root, {"ingest": text, "tokenizer": words})
"""


def start(root: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", RUN, str(root)]
    return subprocess.Popen(command, env=child_environment(1, {}), start_new_session=True)


def finished(root: Path, step: str) -> bool:
    return bool(list((root / step).glob(f"*/{MANIFEST}")))


def kill_inside(step: str, root: Path, delay: float) -> bool:
    """Run until `delay` seconds into the step and kill; whether the step was under way."""
    with start(root) as run:
        while run.poll() is None and not list((root / step).glob("*")):
            time.sleep(0.01)
        time.sleep(delay)
        inside = run.poll() is None and not finished(root, step)
        os.killpg(run.pid, signal.SIGKILL)
    return inside


def digests(root: Path) -> dict[str, str]:
    return {step: open_artifact(next((root / step).iterdir())).verify().digest for step in STEPS}


def test_a_killed_run_ends_with_the_same_digests(tmp_path: Path) -> None:
    with start(tmp_path / "whole") as run:
        assert run.wait() == 0
    hits = {step: sum(kill_inside(step, tmp_path / "killed", delay) for delay in (0.05, 0.4)) for step in STEPS}
    assert all(hits.values()), hits
    with start(tmp_path / "killed") as run:
        assert run.wait() == 0
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")
