"""A copy of the model that the shared nano run has made, for tests that damage it."""

import shutil

import pytest


@pytest.fixture
def copy(nano_run, tmp_path):
    """A root with the model and its memory alone."""
    root = tmp_path / "copy"
    for stage in ("router", "memory"):
        place = nano_run.folder(stage)
        shutil.copytree(place, root / place.relative_to(nano_run.root))
    shutil.copy(nano_run.root / "latest.json", root)
    return root
