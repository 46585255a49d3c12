"""The order in which the flow does things, with stages that only wait and a runner of plain threads."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from flows import full_pipeline
from nano_think.core.errors import ChildError, NanoThinkError
from nano_think.experts import EXPERTS
from nano_think.stages.pipeline import load, plan
from nano_think.stages.session import Session
from nano_think.stages.stage import Context


class Future:
    """What the flow needs of a Prefect future."""

    def __init__(self, future):
        self._future = future

    def wait(self):
        self._future.exception()

    def result(self):
        return self._future.result()


@pytest.fixture
def walk(monkeypatch, tmp_path):
    """walk(act) runs the plan's nodes as act(name, inputs); returns their results."""

    def run(act):
        with ThreadPoolExecutor(8) as pool:

            class Task:
                def submit(self, stage, inputs, root, context):
                    return Future(pool.submit(act, stage.name, inputs))

            monkeypatch.setattr(full_pipeline, "TASKS", dict.fromkeys(full_pipeline.TASKS, Task()))
            monkeypatch.setattr(full_pipeline, "KINDS", dict.fromkeys(full_pipeline.KINDS, Task()))
            return full_pipeline.walk(plan(load("nano")), Session(tmp_path, Context()))

    return run


def test_experts_run_at_once(walk):
    """All experts are under way before any of them ends."""
    together = threading.Barrier(len(EXPERTS))

    def act(name, inputs):
        if name in EXPERTS:
            together.wait(timeout=60)
        return name

    assert set(EXPERTS) <= set(walk(act))


def test_every_stage_gets_what_it_needs(walk):
    """Inputs come under the names of the nodes that made them."""
    seen = {}

    def act(name, inputs):
        seen[name] = inputs
        return f"made by {name}"

    walk(act)
    for name, node in plan(load("nano")).items():
        assert seen[name] == {need: f"made by {need}" for need in node.needs}


def test_failed_expert_leaves_the_others_what_they_made(walk):
    """The others end in peace, the error keeps its kind, and nothing after the experts is begun."""
    ended, failed = [], threading.Event()

    def act(name, inputs):
        if name == next(iter(EXPERTS)):
            failed.set()
            raise ChildError("killed")
        if name in EXPERTS:
            failed.wait(60)
        ended.append(name)
        return name

    with pytest.raises(NanoThinkError) as caught:
        walk(act)
    assert type(caught.value) is ChildError
    assert set(EXPERTS) - {next(iter(EXPERTS))} <= set(ended)
    assert "router" not in ended
