"""A stage by one new file: settings, flags, plan, flow, lineage and report's inputs follow by themselves."""

import json
import re
import shutil
import subprocess
import sys

import pytest

from tests.checkout import ROOT, copy_checkout
from tests.conftest import NANO, PATIENCE

HEAD = '''
"""How many tokens there are."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_think.core.config import Config
from nano_think.core.files import write_json
from nano_think.data.tokens import TokenSet
from nano_think.stages.added import ADDED, AddedStage
from nano_think.stages.stage import Context, Inputs


'''
LOOK = """
import json
from nano_think.core.config import flatten, to_dict
from nano_think.stages.pipeline import load, plan
nodes = plan(load("nano"))
print(json.dumps({
    "nodes": {name: node.needs for name, node in nodes.items()}, "settings": dict(flatten(to_dict(load("nano")))),
}))
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """This checkout, and the file that CONTRIBUTING.md shows."""
    folder = copy_checkout(tmp_path_factory.mktemp("checkout"))
    (example,) = re.findall(r"```python\n(.*?class Census.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    (folder / "nano_think" / "stages" / "added" / "census.py").write_text(HEAD + example)
    return folder


@pytest.fixture
def in_checkout(checkout, monkeypatch):
    """in_checkout("-c", code) runs Python there and returns what it printed."""
    monkeypatch.setenv("PYTHONPATH", str(checkout))
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments):
        done = subprocess.run([sys.executable, *arguments], cwd=checkout, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_settings_and_plan_follow(in_checkout):
    """It stands behind what it needs, and the report behind it."""
    seen = json.loads(in_checkout("-c", LOOK))
    assert seen["settings"]["added.census.split"] == "train"
    assert seen["nodes"]["census"] == ["tokens"] and "census" in seen["nodes"]["report"]


def test_flags_follow(in_checkout):
    """`run --help` has its settings, with their words and defaults."""
    text = in_checkout("-m", "nano_think", "run", "--help")
    assert re.search(r"--added\.census\.split STR\W+Split of the tokens\. \(default: train\)", text)


def test_a_need_that_a_run_does_not_have_is_told(in_checkout):
    """By both names, before anything runs."""
    code = """
from nano_think.core.errors import UsageError
from nano_think.stages.added import ADDED
from nano_think.stages.pipeline import load, plan
ADDED["census"].needs = ("tokens", "dense")
assert "census" in plan(load("nano"))
try:
    plan(load("nano", {"controls": "none"}))
except UsageError as error:
    print(error)
"""
    assert in_checkout("-c", code) == "census: needs dense, which this run does not have\n"


@pytest.mark.slow
@pytest.mark.timeout(PATIENCE * 600)
def test_run_makes_it_and_nothing_else_anew(checkout, nano_run, commands):
    """In the root of a finished run: it is made, and the report, whose lineage has it."""
    commands.code = checkout
    ignored = shutil.ignore_patterns(".prefect", "mlflow*", ".mlflow*")
    root = shutil.copytree(nano_run.root, commands.folder / "root", ignore=ignored)
    done = commands(*NANO, "--added.census.split", "router", "--root", root)
    assert done.returncode == 0, done.stderr
    made = {line.split(":")[0] for line in done.stderr.splitlines() if ": done in" in line}
    assert made == {"census", "report"}
    (file,) = root.glob("census/*/census.json")
    assert json.loads(file.read_text())["tokens"] > 0
    told = commands("lineage", "report", "--root", root)
    assert told.returncode == 0 and "census" in told.stdout
    again = commands(*NANO, "--added.census.split", "router", "--root", root)
    assert again.returncode == 0 and ": done in" not in again.stderr
