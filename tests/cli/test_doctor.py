"""`nano-think doctor` and `completion`."""

import socket
import subprocess
from importlib import metadata

import pytest

from nano_think.cli import doctor
from nano_think.core.files import lock


def states(told):
    return {(one["what"], one["state"]) for one in told.json["findings"]}


def test_a_machine_that_can_run(say, tmp_path, monkeypatch):
    """Everything is looked at, and nothing is wrong."""
    monkeypatch.setattr(doctor, "LITTLE", 1)
    told = say("doctor", "--root", tmp_path, "--json")
    assert told.code == 0, told.out
    assert {what for what, _ in states(told)} == {
        "python", "packages", "port", "disk", "root", "device", "memory", "compiler",
    }  # fmt: skip


def test_wrong_version_is_named_with_what_was_wanted(say, tmp_path, monkeypatch):
    """Prefect's server cannot be imported with every fastapi that pip would take."""
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "0.165.0" if name == "fastapi" else version(name))
    monkeypatch.setattr(doctor, "LITTLE", 1)
    told = say("doctor", "--root", tmp_path)
    assert told.code == 2
    line = next(line for line in told.out.splitlines() if "fastapi" in line)
    assert line.startswith("wrong") and "<0.151" in line and "got 0.165.0" in line


def test_port_root_and_disk(say, tmp_path, monkeypatch):
    """A port that is taken and a root in use are noted; too little room is wrong."""
    monkeypatch.setattr(doctor, "LITTLE", 10**18)
    with socket.create_server(("127.0.0.1", 0)) as server, lock(tmp_path / ".lock", "the root"):
        monkeypatch.setattr(doctor, "PORTS", {server.getsockname()[1]: "Prefect"})
        told = say("doctor", "--root", tmp_path, "--json")
    assert told.code == 2
    assert {("port", "note"), ("root", "note"), ("disk", "wrong")} <= states(told)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_verbs_flags_and_values(say, shell):
    """Flags come from each verb's own help."""
    told = say("completion", shell)
    assert told.code == 0, told.err
    for word in ("generate", "lineage", "max-new-tokens", "pretrain.tokens", "state_space", "nano"):
        assert word in told.out


def test_bash_completes(say):
    """As bash itself finds."""
    script = say("completion", "bash").out

    def complete(*words):
        line = " ".join(f"'{word}'" for word in words)
        code = f'{script}\nCOMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _nano_think; echo "${{COMPREPLY[@]}}"'
        return subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert complete("nano-think", "lin") == ["lineage"]
    assert complete("nano-think", "run", "--pre") == ["--preset", *complete("nano-think", "run", "--pretrain")]
    assert {"micro", "nano", "seed"} <= set(complete("nano-think", "run", "--preset", ""))
    assert "router" in complete("nano-think", "run", "--only", "transformer", "r")
    assert complete("nano-think", "data", "pre") == ["preview"]
