"""The wheel holds all that a run needs: the three packages, presets, templates, the command and the run verb."""

import shutil
import subprocess
import sys
import zipfile

import pytest


@pytest.mark.slow
def test_wheel_is_complete(root, files, tmp_path):
    source = tmp_path / "source"
    for path in files:
        target = source / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(source)]
    subprocess.run(command, check=True, timeout=600)
    (wheel,) = tmp_path.glob("nano_think-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
        (entries,) = (name for name in held if name.endswith("entry_points.txt"))
        entry_points = archive.read(entries).decode()
    shipped = {
        str(path.relative_to(root))
        for path in files
        if path.relative_to(root).parts[0] in ("nano_think", "flows", "tasks")
    }
    assert shipped <= held, sorted(shipped - held)
    assert not {name.split("/")[0] for name in held} & {"tests", "docs", "artifacts", "benchmarks"}
    assert "nano-think = nano_think.cli.main:main" in entry_points
    assert "run = flows.cli:RUN" in entry_points
