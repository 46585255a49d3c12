"""The chat pipeline for real, on its smallest preset: what it leaves, what it does not do twice, another base."""

import json

import pytest

from nano_think.models.chat import Chat
from nano_think.models.checkpoint import load_model
from nano_think.models.think import NanoThink
from nano_think.stages.artifact import open_artifact
from tests.conftest import Commands
from tests.flows.conftest import SFT

pytestmark = pytest.mark.slow


def test_everything_is_finished_and_named(chat_run):
    root, told = chat_run
    places = json.loads((root / "chat-latest.json").read_text())
    assert {"base", "sft", "chat_tokens", "chat_evaluate", "chat_report"} <= places.keys()
    for place in places.values():
        open_artifact(root / place).verify()
    said = json.loads(told.stdout.splitlines()[-1])
    assert said["model"] == str(root / places["sft"]) and (root / places["chat_report"] / "report.html").is_file()
    assert not (root / "latest.json").exists()


def test_chats_lower_the_bits_of_chats(chat_run):
    """Of what the assistant says in held-out chats, with the whole interval below the base's."""
    found = json.loads(chat_run[1].stdout.splitlines()[-1])["results"]["language"]
    assert found["changes"]["base"]["interval"][1] < 0 and found["chats"] > 20


def test_a_second_run_makes_nothing(chat_run):
    root, first = chat_run
    again = Commands(root.parent)(*SFT, "--root", root)
    assert again.returncode == 0 and "started" not in again.stderr, again.stderr
    keys = [json.loads(told.stdout.splitlines()[-1])["artifacts"] for told in (first, again)]
    assert keys[0] == keys[1]


def test_its_model_is_scored_by_the_verbs(chat_run, say):
    root, _ = chat_run
    told = say("chat-eval", "--root", root, "--items", 30, "--json")
    assert told.code == 0, told.err
    for one in told.json["scores"]:
        assert {"task", "kind", "score", "low", "high", "chance", "items", "above_chance"} == one.keys()
        assert 0 <= one["low"] <= one["score"] <= one["high"] <= 1 and one["items"] == 30
    assert say("chat-eval", "--root", root, "--tasks", "sums", "--items", 3).out.count("sums") == 1


def test_mlflow_hears_of_it(chat_run):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{chat_run[0] / 'mlflow.db'}")
    runs = client.search_runs([one.experiment_id for one in client.search_experiments()])
    parent = min(
        (run for run in runs if "mlflow.parentRunId" not in run.data.tags), key=lambda run: run.info.start_time
    )
    assert (
        parent.info.status == "FINISHED"
        and {"chat/bits_per_byte/chat", "chat/tasks/sums/chat"} <= parent.data.metrics.keys()
    )


@pytest.mark.timeout(1800)
def test_a_mixture_learns_to_chat(nano_run, tmp_path):
    """The whole mixture for a base: its experts change, its table does not, and it is a chat model as any other."""
    told = Commands(tmp_path)(*SFT, "--root", tmp_path / "root", "--base", nano_run.folder("router"))
    assert told.returncode == 0, told.stderr
    model, shape = load_model(
        tmp_path / "root" / json.loads((tmp_path / "root" / "chat-latest.json").read_text())["sft"]
    )
    assert isinstance(model, NanoThink) and not isinstance(model, Chat)
    before, _ = load_model(nano_run.folder("router"))
    assert all((a != b).any() for a, b in zip(_outs(model), _outs(before), strict=True))
    assert (model.head.table == before.head.table).all() and shape.window == 64


def _outs(model: NanoThink):
    return [expert.out.weight for expert in model.experts.values()]
