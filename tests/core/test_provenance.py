"""Which code a run used: our commit, and never that of somebody else's checkout that we are installed in."""

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

from nano_think.core import provenance

WHO = ("-c", "user.name=a", "-c", "user.email=a@example.org")


@pytest.fixture
def clone(tmp_path):
    """clone(track) is the module in a checkout that has it under version control, or only around it."""

    def make(track):
        file = tmp_path / "nano_think" / "core" / "provenance.py"
        file.parent.mkdir(parents=True)
        shutil.copy(Path(provenance.__file__), file)
        (tmp_path / "theirs.txt").write_text("theirs")
        for words in (("init", "-q"), ("add", "theirs.txt", *([str(file)] if track else [])), ("commit", "-qm", "one")):
            subprocess.run(["git", *WHO, *words], cwd=tmp_path, check=True)
        spec = importlib.util.spec_from_file_location("copied", file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module, file

    return make


def test_checkout_of_ours_is_told_with_what_was_changed_in_it(clone):
    """Its commit, and whether the files are those of the commit."""
    module, file = clone(track=True)
    told = module.provenance()
    assert len(told["git.commit"]) == 40 and told["git.diff"] == "clean"
    file.write_text(file.read_text() + "# changed\n")
    assert module.provenance()["git.diff"] != "clean"


def test_checkout_of_somebody_else_says_nothing_of_us(clone):
    """As where an environment lies in a folder of another project."""
    module, _ = clone(track=False)
    assert module.provenance().keys() == {"packages"}
