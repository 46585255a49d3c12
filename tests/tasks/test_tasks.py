"""The Prefect face of the stages: bodies of one statement, no retries, no cache, nothing pickled."""

import ast
from importlib import import_module
from pathlib import Path

import pytest

import tasks
from nano_think.experts import EXPERTS
from nano_think.stages.chat_pipeline import chat_plan, load_chat_config
from nano_think.stages.pipeline import load, plan
from nano_think.stages.stage import Context

FOLDER = Path(tasks.__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("[a-z]*.py"))


class Recorder:
    """Stands for a stage."""

    name = "recorder"

    def run(self, *arguments):
        return arguments


@pytest.mark.parametrize("name", NAMES)
def test_task_hands_all_to_its_stage(name, tmp_path):
    """Without a server, a task's function is the stage's run."""
    task, context = getattr(import_module(f"tasks.{name}"), name), Context()
    assert task.fn(Recorder(), {"a": 1}, tmp_path, context) == (tmp_path, {"a": 1}, context)


@pytest.mark.parametrize("name", NAMES)
def test_task_decides_nothing(name):
    """Retries would start again what Ctrl-C has ended; Prefect's cache knows nothing of the library's code."""
    task = getattr(import_module(f"tasks.{name}"), name)
    assert task.name == name
    assert task.retries == 0
    assert task.persist_result is False
    assert task.cache_policy == tasks.OPTIONS["cache_policy"]


@pytest.mark.parametrize("name", NAMES)
def test_body_is_one_statement(name):
    """Whoever wants to know what a task does reads the stage."""
    tree = ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))
    (function,) = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert function.name == name
    body = [node for node in function.body if not isinstance(node, ast.Expr)]
    assert len(body) == 1


def test_every_node_of_the_plans_has_its_task(tmp_path):
    """Each stage's task is found by the name of the node; experts share one, and so do added stages."""
    nodes = plan(load("nano")).keys() - set(EXPERTS) | chat_plan(load_chat_config("chat"), tmp_path).keys()
    assert set(NAMES) == nodes | {"pretrain", "added"}
