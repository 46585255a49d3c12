"""Tasks and flows as one who uses them would test them: `.fn` and plain arguments, no server.

These are examples as much as tests. What a stage does is tested without its task, in tests/stages.
"""

import json
import os
import subprocess
import sys

import pytest

from flows.full_pipeline import full_pipeline
from nano_think.core.errors import UsageError
from nano_think.data.ingest import IngestConfig
from nano_think.data.tokenizer import TokenizerConfig
from nano_think.stages.ingest import Ingest
from nano_think.stages.stage import Context
from nano_think.stages.tokenizer import TrainTokenizer
from tasks.ingest import ingest
from tasks.tokenizer import tokenizer


@pytest.fixture
def text(tmp_path):
    """A little text of one's own."""
    path = tmp_path / "stories" / "text.jsonl"
    path.parent.mkdir()
    lines = [{"text": f"The cat number {number} sat on the mat and saw the dog. " * 8} for number in range(60)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_two_tasks_one_after_the_other(text, tmp_path):
    """What a task returns is what the next one takes; called again it makes nothing again."""
    read = Ingest(IngestConfig(sources=(f"jsonl:{text}",)))
    shards = ingest.fn(read, {}, tmp_path / "root", Context())
    words = tokenizer.fn(
        TrainTokenizer(TokenizerConfig(vocab_size=300)), {"ingest": shards}, tmp_path / "root", Context()
    )
    assert words.summary["vocab_size"] == 300
    made = words.path.stat().st_mtime_ns
    again = tokenizer.fn(
        TrainTokenizer(TokenizerConfig(vocab_size=300)), {"ingest": shards}, tmp_path / "root", Context()
    )
    assert again == words and words.path.stat().st_mtime_ns == made


def test_flow_refuses_wrong_settings_before_it_does_anything(tmp_path):
    """The flow's function is plain Python too."""
    with pytest.raises(UsageError, match="Did you mean 'tokens'"):
        full_pipeline.fn(preset="nano", overrides={"pretrain": {"tokns": 1}}, root=str(tmp_path / "root"))
    assert not (tmp_path / "root").exists()


ALONE = """
from tasks.ingest import ingest

class Stage:
    def run(self, *arguments):
        return "made"

print(ingest.fn(Stage(), {}, None, None))
"""


def test_no_server_is_needed_or_started():
    """With an API that nobody answers at, and none of Prefect's own allowed."""
    none = {"PREFECT_API_URL": "http://127.0.0.1:9/api", "PREFECT_SERVER_EPHEMERAL_ENABLED": "false"}
    words = [sys.executable, "-c", ALONE]
    done = subprocess.run(words, env=os.environ | none, capture_output=True, text=True, timeout=600)
    assert done.stdout.strip() == "made", done.stderr
