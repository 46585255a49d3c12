"""Flags, files and presets: what wins, what --print-config shows, what --help says."""

import re

import pytest
import yaml

from nano_think.cli import data, memory
from nano_think.cli.verbs import all_verbs
from nano_think.core.config import flatten, to_dict
from nano_think.stages.pipeline import load, presets

GROUPS = {"data": data.VERBS, "memory": memory.VERBS}
# The help of lm-eval is lm_eval's own.
VERBS = [verb for verb in all_verbs() if verb not in (*GROUPS, "lm-eval")]
VERBS += [f"{group} {verb}" for group, verbs in GROUPS.items() for verb in verbs]
WITHOUT_FLAGS = {"completion", "down"}


def printed(say, *arguments):
    told = say("run", *arguments, "--print-config")
    assert told.code == 0, told.err
    return told.out


@pytest.mark.parametrize("preset", presets())
def test_printed_configuration_loads_as_itself(say, tmp_path, preset):
    """Printed, saved, loaded over any other preset, printed again: the same."""
    text = printed(say, "--preset", preset)
    assert yaml.safe_load(text) == to_dict(load(preset))
    (tmp_path / "saved.yaml").write_text(text)
    assert printed(say, "--preset", "micro", "--config", tmp_path / "saved.yaml") == text


def test_printed_configuration_holds_the_flags(say, tmp_path):
    """Flags of every kind survive the round trip: numbers, lists, none, words with blanks."""
    flags = (
        *("--preset", "nano", "--seed", 7, "--members", "transformer", "diffuser", "--pretrain.save-every", "0.5"),
        *("--ingest.max-bytes-per-source", "None", "--sources", "kjv", "jsonl:a b/*.jsonl"),
        *("--evaluate.prompts", "one two", "def f():\n", "--compute.no-fast-matmul"),
    )
    text = printed(say, *flags)
    values = yaml.safe_load(text)
    assert values["members"] == ["transformer", "diffuser"]
    assert values["ingest"]["sources"] == ["kjv", "jsonl:a b/*.jsonl"]
    assert values["ingest"]["max_bytes_per_source"] is None
    assert values["evaluate"]["prompts"] == ["one two", "def f():\n"]
    assert values["compute"]["fast_matmul"] is False
    (tmp_path / "saved.yaml").write_text(text)
    assert printed(say, "--config", tmp_path / "saved.yaml") == text


def test_flags_win_over_the_file_over_the_preset_over_the_default(say, tmp_path):
    """default < preset < --config FILE < flags, setting by setting."""
    (tmp_path / "my.yaml").write_text("seed: 5\nspace: {window: 96}\npretrain: {optim: {clip: 0.5}}\n")
    values = yaml.safe_load(
        printed(
            say, "--space.window", 48, "--preset", "nano", "--config", tmp_path / "my.yaml", "--router.max-epochs", 3
        )
    )
    preset = to_dict(load("nano"))
    assert values["seed"] == 5
    assert values["space"] == {"width": preset["space"]["width"], "window": 48}
    assert values["pretrain"]["optim"]["clip"] == 0.5
    assert values["pretrain"]["tokens"] == preset["pretrain"]["tokens"]
    assert values["router"]["max_epochs"] == 3
    assert values["ingest"]["min_chars"] == preset["ingest"]["min_chars"]


@pytest.mark.parametrize("flag", ["--offline-ok", "--ingest.offline-ok"])
def test_a_run_may_go_on_without_the_hub(say, flag):
    """By the short name and by the long one; nobody who did not say so gets other text than was asked for."""
    values = yaml.safe_load(printed(say, "--preset", "seed", flag))
    assert values["ingest"]["offline_ok"] is True and values["ingest"]["sources"] == ["seven"]
    assert yaml.safe_load(printed(say, "--preset", "seed"))["ingest"]["offline_ok"] is False


def test_values_with_an_equals_sign_work_too(say):
    """--flag=value is --flag value, for the preset as well."""
    assert printed(say, "--preset=nano", "--seed=9") == printed(say, "--preset", "nano", "--seed", "9")


@pytest.fixture
def helps(say, monkeypatch):
    """helps("run") is flag -> all that the help says of it."""
    monkeypatch.setenv("COLUMNS", "100")

    def read(verb):
        told = say(*verb.split(), "--help")
        assert told.code == 0 and told.err == ""
        found, flag = {}, ""
        for line in told.out.splitlines():
            words = line.strip("│|┃ ").strip()
            if starts := re.match(r"(--[\w.-]+) ?", words):
                flag = starts[1]
            found[flag] = f"{found.get(flag, '')} {words}".strip()
        return {flag: text for flag, text in found.items() if flag and "is short for" not in text}

    return read


@pytest.mark.parametrize("verb", VERBS)
def test_help_explains_every_setting(helps, verb):
    """Each flag has a type or choices, words, and its default (or that it is required)."""
    flags = helps(verb)
    assert flags or verb in WITHOUT_FLAGS
    for flag, text in flags.items():
        if flag != "--help":
            assert re.search(r"\((default|required)\b", text), f"{flag}: {text}"
            assert len(re.sub(r"\(default.*", "", text).split()) >= 3, f"{flag}: {text}"


UNITLESS = re.compile(
    r"--(help|debug|json|root|model|text|domain|split|prompt|data|config|preset|print-config|show-routing|memory|bad-lines|seed|members"
    r"|compute\.(device|dtype|no-fast-matmul)|ingest\.(sources|bad-lines)|evaluate\.prompts"
    r"|.*n-layers|.*n-heads)$"
)


@pytest.mark.parametrize("verb", VERBS)
def test_help_gives_the_unit_of_every_number(helps, verb):
    """A number has its unit in the words, mostly in parentheses; counts name what they count."""
    without = [
        f"{flag}: {text}"
        for flag, text in helps(verb).items()
        if re.search(r" (INT|FLOAT|\{None\}\|INT)\b", text)
        and not UNITLESS.match(flag)
        and not re.search(r"\((?!default)[^()]+\)|bytes|characters|in tokens", text.partition("(default")[0])
    ]
    assert not without, "\n".join(without)


def test_help_shows_every_setting_of_the_pipeline(helps):
    """No setting is a secret."""
    flags = helps("run")
    for name, value in flatten(to_dict(load("micro"))):
        section, _, last = name.replace("_", "-").rpartition(".")
        last = f"no-{last}" if value is True else last
        assert "--" + f"{section}.{last}".lstrip(".") in flags, name


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("arguments", [[], ["--help"], ["help"]])
def test_help_of_a_group_lists_the_verbs_below(say, group, arguments):
    """Without a word, and on request."""
    told = say(group, *arguments)
    assert told.code == 0
    for name, verb in GROUPS[group].items():
        assert re.search(rf"^  {name} +{re.escape(verb.summary)}$", told.out, re.MULTILINE)


def test_help_of_the_command_lists_the_verbs(say):
    """Each verb with what it is for."""
    told = say("--help")
    assert told.code == 0
    for name, verb in all_verbs().items():
        assert re.search(rf"^  {name} +{re.escape(verb.summary)}$", told.out, re.MULTILINE)
