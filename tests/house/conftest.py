"""The project's own files, as the tests of the house see them."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HIDDEN_BUT_OURS = {".ci"}
NOT_OURS = {"build", "dist", "__pycache__", "mlruns"}


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


def ours(path: Path) -> bool:
    """Whether a path below the root is source rather than an environment, a cache or a run's leavings."""
    hidden = any(part.startswith(".") and part not in HIDDEN_BUT_OURS for part in path.parent.parts)
    return not hidden and not NOT_OURS & set(path.parts) and (path.parts[0] != "artifacts" or path.name == "README.md")


@pytest.fixture(scope="session")
def files(root: Path) -> list[Path]:
    """What git holds or would hold (new files that are not ignored too); every file of ours where there is no git."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=root, capture_output=True, check=True, text=True).stdout.split("\0")
        found = [root / name for name in listed if name]
    except (OSError, subprocess.CalledProcessError):
        found = [path for path in root.rglob("*") if ours(path.relative_to(root))]
    return sorted(path for path in found if path.is_file())


@pytest.fixture(scope="session")
def python_files(files: list[Path]) -> list[Path]:
    return [path for path in files if path.suffix == ".py"]
