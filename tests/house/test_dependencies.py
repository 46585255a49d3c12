"""What is installed is what the lock says, is new enough to be safe, and fits together."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
SETUP = ("serve", "dev", "hub", "eval", "dask")

# Older ones have known holes (torch, mlflow, prefect) or break Prefect's server (fastapi).
NEEDED = ["torch>=2.10", "mlflow>3.12", "prefect>=3.6.22", "fastapi<0.151"]


def requirements(*extras: str) -> list[Requirement]:
    lines = PROJECT["dependencies"] + [line for extra in extras for line in EXTRAS[extra]]
    return [Requirement(line) for line in lines]


def locked() -> dict[str, str]:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    return {canonicalize_name(name): pin for name, pin in re.findall(r"^([\w.-]+)==(\S+)$", text, flags=re.MULTILINE)}


@pytest.mark.parametrize("line", NEEDED)
def test_installed_is_safe(line):
    requirement = Requirement(line)
    assert requirement.specifier.contains(version(requirement.name))


@pytest.mark.parametrize("requirement", requirements(*EXTRAS), ids=str)
def test_lock_is_inside_the_declared_ranges(requirement):
    assert requirement.specifier.contains(locked()[canonicalize_name(requirement.name)])


@pytest.mark.parametrize("requirement", requirements(*SETUP), ids=str)
def test_installed_is_what_the_lock_says(requirement):
    assert version(requirement.name).split("+")[0] == locked()[canonicalize_name(requirement.name)]


def test_prefect_server_can_be_imported(tmp_path):
    """Prefect's bounds are loose: a set of versions can install well and then be unable to start any flow."""
    code = f"import os; os.environ['PREFECT_HOME'] = {str(tmp_path)!r}; import prefect.server.api.server"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
