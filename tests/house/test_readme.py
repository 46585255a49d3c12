"""The commands that the README shows exist: every make target, every verb, every flag."""

import functools
import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
BLOCK = re.compile(r"^```(?:bash|sh|console)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)


def commands(program: str) -> list[str]:
    """The README's command lines that start with `program`, continued lines joined, comments dropped."""
    text = "".join(BLOCK.findall(README.read_text(encoding="utf-8"))).replace("\\\n", " ")
    lines = (re.sub(r"\s+# .*", "", line.removeprefix("$ ")).strip() for line in text.splitlines())
    return [line for line in lines if line.split(" ")[0] == program]


@functools.cache
def help_of(*verb: str) -> str:
    """What `nano-think VERB --help` prints, without frames and colours; some verbs have verbs below them."""
    code = "import sys; from nano_think.cli.main import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code, *verb, "--help"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"nano-think {' '.join(verb)} --help: {done.stdout}{done.stderr}"
    return done.stdout


def test_the_two_commands_are_shown():
    assert "make run" in commands("make")
    assert "make test" in commands("make")


@pytest.mark.parametrize("line", commands("make"))
def test_make_target_exists(line, root):
    words = shlex.split(line)
    done = subprocess.run(["make", "-n", *words[1:]], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line", commands("nano-think"))
def test_verb_and_flags_exist(line):
    words = shlex.split(line)[1:]
    shown = help_of(*itertools.takewhile(lambda word: not word.startswith("-"), words))
    flags = {word.split("=")[0] for word in words if word.startswith("--")}
    assert not {flag for flag in flags if not re.search(rf"{re.escape(flag)}\b", shown)}, shown
