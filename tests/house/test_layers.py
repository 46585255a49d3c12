"""The floors hold, and each contract would notice if they did not."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LINT = "from importlinter.cli import lint_imports_command; lint_imports_command()"
BROKEN = {
    "house": ("nano_think/core/upstairs.py", "import tasks"),
    "floors": ("nano_think/core/upstairs.py", "import nano_think.cli"),
    "prefect": ("nano_think/core/upstairs.py", "import prefect"),
    "mlflow": ("nano_think/core/upstairs.py", "import mlflow.tracking"),
    "faiss": ("nano_think/core/upstairs.py", "def search():\n    import faiss"),
    "fastapi": ("flows/upstairs.py", "from starlette import requests"),
    "torch": ("nano_think/core/upstairs.py", "from torch import nn"),
}


def lint(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LINT, "--no-cache", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)


def test_floors_hold(root):
    done = lint(root)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("contract", BROKEN)
def test_contract_notices_a_broken_floor(root, tmp_path, contract):
    for name in ("nano_think", "flows", "tasks"):
        shutil.copytree(root / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(root / "pyproject.toml", tmp_path)
    where, what = BROKEN[contract]
    (tmp_path / where).write_text(what + "\n", encoding="utf-8")
    done = lint(tmp_path, "--contract", contract)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "upstairs" in done.stdout
