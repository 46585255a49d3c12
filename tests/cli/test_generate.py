"""`nano-think generate`: text, the same twice, with the experts' weights beside each token."""

import math
import re

import pytest

from nano_think.experts import EXPERTS

PROMPT = ("--prompt", "In the beginning", "--max-new-tokens", 24)


def test_same_seed_same_text(nano_run, commands):
    """Two processes, one text; it begins with the prompt."""
    arguments = ("generate", "--model", "latest", *PROMPT, "--seed", 1, "--root", nano_run.root)
    first, second = commands(*arguments), commands(*arguments)
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    assert first.stdout.startswith("In the beginning") and len(first.stdout) > len("In the beginning\n")
    assert first.stderr == ""


def test_another_seed_another_text(nano_run, say):
    """The seed is what decides."""
    texts = {say("generate", *PROMPT, "--root", nano_run.root, "--seed", seed).out for seed in (1, 2, 3)}
    assert len(texts) == 3


def test_greedy_needs_no_seed(nano_run, say):
    """At temperature 0 the likeliest token is taken."""
    greedy = ("generate", *PROMPT, "--root", nano_run.root, "--temperature", 0)
    assert say(*greedy, "--seed", 1).out == say(*greedy, "--seed", 2).out


def test_show_routing_prints_the_weights_of_each_token(nano_run, say):
    """One line per token: three weights that sum to one, and the token."""
    told = say("generate", *PROMPT, "--root", nano_run.root, "--show-routing", "--seed", 1)
    head, *lines = told.out.splitlines()
    assert all(name in head for name in EXPERTS)
    assert len(lines) == 24
    for line in lines:
        *weights, token = line.split("  ", 3)
        assert len(weights) == 3 and math.isclose(sum(map(float, weights)), 1, abs_tol=0.002)
        assert re.fullmatch(r"(['\"]).*\1", token)


def test_json_is_the_last_line_and_agrees_with_the_text(nano_run, say):
    """The same seed gives the same text with and without --json; weights are named and sum to one."""
    plain = say("generate", *PROMPT, "--root", nano_run.root, "--seed", 1).out
    told = say("generate", *PROMPT, "--root", nano_run.root, "--seed", 1, "--json").json
    assert told["prompt"] + told["text"] + "\n" == plain
    assert len(told["tokens"]) == 24
    for token in told["tokens"]:
        assert token["weights"].keys() == EXPERTS.keys()
        assert math.isclose(sum(token["weights"].values()), 1, abs_tol=1e-5)


def test_model_may_be_a_path(nano_run, say, tmp_path):
    """The folder that the run printed is enough, wherever one stands."""
    by_name = say("generate", *PROMPT, "--root", nano_run.root, "--seed", 1)
    by_path = say("generate", *PROMPT, "--root", tmp_path, "--model", nano_run.told.json["model"], "--seed", 1)
    assert by_path.out == by_name.out


@pytest.mark.parametrize("prompt", ["", "\n", "é 漢 🙂", "<|bos|><|endoftext|>", "word " * 300, "--debug?"])
def test_any_prompt_is_taken(nano_run, say, prompt):
    """Empty, foreign, with what looks like control tokens, longer than the window."""
    told = say("generate", f"--prompt={prompt}", "--max-new-tokens", 3, "--root", nano_run.root)
    assert told.code == 0, told.err


def test_text_cannot_steer_the_terminal(nano_run, say):
    """Control characters are not printed, whoever said them."""
    told = say("generate", "--prompt", "a\x1b[31mb\x07", "--max-new-tokens", 2, "--root", nano_run.root)
    assert told.out.startswith("a[31mb")


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--max-new-tokens", 0), ("--temperature", -1), ("--temperature", "nan"), ("--top-k", -1), ("--top-p", 2)],
    ids=str,
)
def test_wrong_numbers_are_refused(nano_run, say, flag, value):
    """Exit 2, one line that names the setting."""
    told = say("generate", "--prompt", "a", f"{flag}={value}", "--root", nano_run.root)
    assert told.code == 2, told
    assert flag.lstrip("-").replace("-", "_") in told.err.replace("-", "_")
    assert told.err.count("\n") == 1 and told.out == ""


def test_the_text_may_come_from_a_file(nano_run, say, tmp_path):
    (tmp_path / "a.txt").write_text(PROMPT[1])
    plain = say("generate", *PROMPT, "--root", nano_run.root, "--seed", 1)
    told = say("generate", "--file", tmp_path / "a.txt", *PROMPT[2:], "--root", nano_run.root, "--seed", 1)
    assert told.code == 0 and told.out == plain.out


def test_the_text_ends_before_a_stop_text(nano_run, say):
    whole = say("generate", *PROMPT, "--root", nano_run.root, "--json").json["text"]
    stop = whole[5:7]
    cut = say("generate", *PROMPT, "--root", nano_run.root, "--json", "--stop", stop).json["text"]
    assert cut == whole[: whole.index(stop)]


def test_nothing_is_remembered_unless_asked(nano_run, say, tmp_path):
    told = say("generate", *PROMPT, "--root", tmp_path, "--model", nano_run.told.json["model"])
    assert told.code == 0 and not (tmp_path / "memory").exists()


def test_a_text_is_remembered_if_asked(nano_run, say, tmp_path):
    """And read again; nobody else's memory is made by reading."""
    asked = ("generate", *PROMPT, "--root", tmp_path, "--model", nano_run.told.json["model"], "--namespace", "carol")
    assert say(*asked, "--memory", "read").code == 2
    assert say(*asked, "--memory", "read-write").code == 0
    assert [one.name for one in (tmp_path / "memory").glob("*/*")] == ["carol"]
    assert say(*asked, "--memory", "read").code == 0


@pytest.mark.parametrize(
    "draft", [("diffuser",), ("diffuser", "--draft-tokens", 2, "--draft-steps", 3), ("transformer",)]
)
def test_greedy_text_is_the_same_with_a_draft(nano_run, say, draft):
    greedy = ("generate", *PROMPT, "--root", nano_run.root, "--temperature", 0)
    assert say(*greedy, "--draft", *draft).out == say(*greedy).out


def test_a_draft_by_nobody_is_refused(nano_run, say):
    refused = say("generate", *PROMPT, "--root", nano_run.root, "--draft", "difuser")
    assert refused.code == 2 and "got 'difuser' Did you mean 'diffuser'?" in refused.err
