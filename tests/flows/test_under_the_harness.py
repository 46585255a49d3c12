"""A flow as one who uses Prefect would test it: under its own harness, with an API and a history of the test's."""

import json

import pytest
from prefect.client.orchestration import get_client
from prefect.testing.utilities import prefect_test_harness

from flows.one_stage import one_stage
from tests.checkout import wait_for
from tests.conftest import PATIENCE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(PATIENCE * 200)]


@pytest.fixture(scope="module", autouse=True)
def prefect():
    """Prefect's temporary API with an empty history."""
    with prefect_test_harness(server_startup_timeout=int(PATIENCE * 100)):
        yield


@pytest.fixture
def overrides(tmp_path):
    """A little text of one's own, and a small vocabulary."""
    file = tmp_path / "stories" / "text.jsonl"
    file.parent.mkdir()
    lines = [{"text": f"The cat number {number} sat on the mat and saw the dog. " * 8} for number in range(60)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {"ingest": {"sources": [f"jsonl:{file}"]}, "tokenizer": {"vocab_size": 300}}


def states():
    """Name and state of every task run in the history."""
    with get_client(sync_client=True) as client:
        return {run.name: run.state_name for run in client.read_task_runs()}


def test_flow_makes_what_a_stage_needs_and_tells_prefect(overrides, tmp_path):
    """The artifacts of the stage and of what it needs, each a finished task run; again, the same ones."""
    made = one_stage("tokenizer", preset="nano", overrides=overrides, root=str(tmp_path / "root"))
    assert made.keys() == {"ingest", "tokenizer"}
    assert made["tokenizer"].verify().summary["vocab_size"] == 300
    # States travel as events behind the run.
    wait_for(lambda: states() == dict.fromkeys(made, "Completed"), 60)
    again = one_stage("tokenizer", preset="nano", overrides=overrides, root=str(tmp_path / "root"))
    assert again == made
