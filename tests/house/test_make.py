"""The Makefile says what is wrong before it does anything."""

import shutil
import subprocess

import pytest


def make(folder, *words):
    return subprocess.run(["make", *words], cwd=folder, capture_output=True, text=True, timeout=60)


@pytest.fixture
def clone(root, tmp_path):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(root / name, tmp_path)
    return tmp_path


def test_make_alone_shows_help(root):
    done = make(root)
    assert done.returncode == 0
    for target in ("setup", "run", "test", "test-slow", "check", "fix", "bench", "docs", "clean"):
        assert f"make {target} " in done.stdout


def test_old_python_is_refused(clone):
    old = clone / "old-python"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.10.1 && exit 0\nexit 1\n', encoding="utf-8")
    old.chmod(0o755)
    done = make(clone, "run", "PYTHON=./old-python")
    assert done.returncode != 0
    assert "needs Python 3.11, 3.12 or 3.13; ./old-python is Python 3.10.1" in done.stderr
    assert not (clone / ".venv").exists()


def test_missing_python_is_refused(clone):
    done = make(clone, "test", "PYTHON=no-such-python")
    assert done.returncode != 0
    assert "no no-such-python here" in done.stderr
