"""The chat verbs: settings from files of three kinds, and the second design's three scripts as doors to them."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from nano_think.cli import doors
from nano_think.core.config import overlay, to_dict
from nano_think.stages.chat_pipeline import load_chat_config

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "a.py": 'preset = "chat-nano"\nimport os\n_hidden = 3\ndef f(): pass\nbackbone = {"n_layers": 1 + 2}\nseed = 5\n',
    "a.yaml": "preset: chat-nano\nseed: 5\nbackbone: {n_layers: 3}\n",
    "a.toml": 'preset = "chat-nano"\nseed = 5\n[backbone]\nn_layers = 3\n',
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_come_from_files_of_three_kinds(say, tmp_path: Path, name: str):
    """The preset that they start from too; a flag goes before either."""
    (tmp_path / name).write_text(SETTINGS[name])
    told = say("sft", "--config", tmp_path / name, "--print-config", "--sft.batch", 3)
    assert told.code == 0, told.err
    changed = {"seed": 5, "backbone": {"n_layers": 3}, "sft": {"batch": 3}}
    assert yaml.safe_load(told.out) == overlay(to_dict(load_chat_config("chat-nano")), changed)
    told = say("sft", "--config", tmp_path / name, "--preset", "chat", "--print-config")
    assert yaml.safe_load(told.out)["space"] == to_dict(load_chat_config("chat"))["space"]


BAD = {
    "a.toml": ("x = [", "not TOML"),
    "a.py": ("1 / 0", "does not run (ZeroDivisionError: division by zero)"),
    "a.yaml": ("sed: 5", "unknown key 'sed'. Did you mean 'seed'?"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_named(say, tmp_path: Path, name: str):
    text, said = BAD[name]
    (tmp_path / name).write_text(text)
    told = say("sft", "--config", tmp_path / name, "--print-config")
    assert told.code == 2 and said in told.err and name in told.err
    assert say("sft", "--config", tmp_path / f"no-{name}").code == 2


def test_the_example_is_a_configuration(say):
    told = say("sft", "--config", ROOT / "config" / "custom_config.py", "--print-config")
    assert told.code == 0 and yaml.safe_load(told.out)["chats"]["sources"] == ["starter_chat"]


@pytest.mark.parametrize(
    ("words", "handed"),
    [
        (["--checkpoint", "a/b"], ["--model", "a/b"]),
        (["--checkpoint", "latest", "--json"], ["--model", "chat-latest", "--json"]),
        (["--checkpoint=latest"], ["--model", "chat-latest"]),
        (["--checkpoint=a=b"], ["--model", "a=b"]),
        (["--model", "latest"], ["--model", "latest"]),
        (["--checkpoint"], ["--model"]),
    ],
)
def test_doors_hand_a_checkpoint_on_as_a_model(monkeypatch, words: list[str], handed: list[str]):
    seen = []
    monkeypatch.setattr(doors, "main", lambda: seen.append(sys.argv[1:]) or 7)
    monkeypatch.setattr(sys, "argv", ["scripts/chat_eval.py", *words])
    assert doors.enter("chat-eval") == 7 and seen == [["chat-eval", *handed]]


@pytest.mark.parametrize("script", ["chat_sft.py", "chat_eval.py"])
def test_the_scripts_open(script: str):
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / script, "--help"], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0 and "usage: nano-think" in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--tasks", "blip"], 2, "unknown task 'blip'"),
        (["--items", "0"], 2, "--items: wanted at least 1, got 0"),
        ([], 2, "no finished chat model under"),
    ],
)
def test_chat_eval_refuses(say, tmp_path: Path, words: list[str], code: int, said: str):
    told = say("chat-eval", "--root", tmp_path, *words)
    assert (told.code, told.out) == (code, "") and said in told.err and "Traceback" not in told.err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--base", "latest"], 2, "no finished model under"),
        (["--chats.sources", "kjv"], 2, "source 'kjv' holds text, and chat is wanted here"),
        (["--evaluate.tasks", "sumz"], 2, "unknown task 'sumz'. Did you mean 'sums'?"),
        (["--chats.sources", "chats:nowhere/*.jsonl"], 3, "no file matches"),
    ],
)
def test_sft_refuses_before_any_work(say, tmp_path: Path, words: list[str], code: int, said: str):
    told = say("sft", "--preset", "chat-nano", "--root", tmp_path / "root", *words)
    assert (told.code, told.out) == (code, "") and said in told.err and "Traceback" not in told.err
    assert not (tmp_path / "root").exists() or not list((tmp_path / "root").glob("*/*/*"))
