"""`nano-think chat`: turns and commands, and a model that cannot steer the terminal."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from nano_think.cli.conversation import Conversation, bar, tinted
from nano_think.core.errors import UsageError
from nano_think.inference.request import Event
from nano_think.inference.sampling import SamplingConfig

NAMES = ["one", "two", "three"]


class Parrot:
    """A talker that says what it is told, a character a token."""

    names = NAMES
    dials = ("id", "ego")

    def __init__(self):
        self.messages, self.asked = [], []

    def stream(self, text, *wanted):
        self.asked.append((text, *wanted))
        for character in text:
            yield Event(request=1, token=0, text=character, weights=(0.2, 0.3, 0.5))
        yield Event(request=1, finish="stop")
        self.messages += [{"role": "user", "content": text}, {"role": "assistant", "content": text}]

    def reset(self, messages=()):
        self.messages = list(messages)


def look(namespace, write):
    assert not write, "to ask for a memory to write makes it and takes its lock"
    return {"alice": [0] * 7}[namespace]


def conversation(talker, **more):
    return Conversation(
        talker=talker, namespaces=look, sampling=SamplingConfig(), max_new_tokens=9, memory="read",
        namespace="alice", **more,
    )  # fmt: skip


@pytest.fixture
def talk():
    """A conversation with a parrot in a terminal that shows colours, and what has been printed."""
    console = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", width=100, highlight=False)
    talking = conversation(Parrot(), console=console)
    talking.printed = console.file.getvalue
    return talking


def test_answer_is_coloured_by_expert_and_summed_in_a_bar(talk):
    talk.take("hi")
    assert "one 20%, two 30%, three 50%" in talk.printed()
    assert talk.talker.asked == [("hi", 9, SamplingConfig(), "read", "alice", {}, 1)]


def test_what_is_said_cannot_steer_the_terminal(talk):
    """No escape sequence but our own colours; no title, no bell, no cursor."""
    talk.take("\ud800\x1b[2J\x1b]0;title\x07\x9b31m[bold]x[/bold]")
    said = talk.printed()
    assert "\x07" not in said and "\x9b" not in said and "\x1b]" not in said and "\x1b[2J" not in said
    assert {part.partition("m")[0][-1:].isdigit() for part in said.split("\x1b[")[1:]} == {True}


def test_every_token_has_a_bar(talk):
    talk.take("hi")
    talk.take("/experts")
    assert talk.printed().count("three 50%") == 3


def test_bar_is_full_whatever_is_rounded():
    for weights in [(1 / 3,) * 3, (0.999, 0.0005, 0.0005), (1.0,), (0.14,) * 7 + (0.02,)]:
        assert len(bar(weights).plain) == 24


def test_a_token_has_the_colour_of_the_largest_weight():
    styles = {tinted(Event(request=1, text="a", weights=w)).style for w in [(0.6, 0.4), (0.4, 0.6)]}
    assert len(styles) == 2


def test_conversation_is_saved_and_loaded(talk, tmp_path):
    talk.take("hi")
    said = list(talk.talker.messages)
    talk.take(f"/save {tmp_path / 'said.json'}")
    talk.take("/reset")
    assert talk.talker.messages == []
    talk.take(f"/load {tmp_path / 'said.json'}")
    assert talk.talker.messages == said


@pytest.mark.parametrize("text", ["", "[1]", '{"messages": [1]}', '{"messages": [{"role": "user", "content": 1}]}'])
def test_what_is_no_conversation_is_not_loaded(talk, tmp_path, text):
    (tmp_path / "said.json").write_text(text)
    talk.take(f"/load {tmp_path / 'said.json'}")
    assert "said.json" in talk.printed().replace("\n", "") and talk.talker.messages == []


MISTAKES = ["/psyche superego=1", "/psyche id", "/nothing", "/temp hot", "/temp -1", "/memory always", "/load", "/save"]
FILES = ["/save /no/such/x", "/save /", "/save ~nobody-here/x"]


@pytest.mark.parametrize("line", MISTAKES + FILES)
def test_mistakes_are_told_and_end_nothing(talk, line):
    talk.take(line)
    assert talk.printed().strip() and not talk.over


def test_settings_hold_for_the_next_turn(talk):
    talk.take("/temp 0.25")
    talk.take("/memory off")
    talk.take("hi")
    _, _, sampling, memory, *_ = talk.talker.asked[0]
    assert (sampling.temperature, memory) == (0.25, "off")


@pytest.mark.parametrize("mode", ["", "off", "read", "read-write"])
def test_telling_what_is_remembered_only_reads(talk, mode):
    talk.take(f"/memory {mode}")
    assert f"{mode or 'read'}; 'alice' holds 7 entries" in talk.printed()


def test_a_psyche_is_steered_until_it_is_off(talk):
    talk.take("/psyche id=2,ego=-1.5")
    talk.take("hi")
    talk.take("/psyche off")
    talk.take("hi")
    assert [asked[-2] for asked in talk.talker.asked] == [{"id": 2.0, "ego": -1.5}, {}]
    assert "id 2, ego -1.5" in talk.printed() and "id 0, ego 0" in talk.printed()


def test_what_parts_tell_stands_beside_the_bar(talk):
    talk.talker.stream = lambda *_: iter([
        Event(request=1, token=0, text="a", weights=(1.0, 0.0, 0.0), figures={"expected_loss": value})
        for value in (9.0, 1.0, 2.0)
    ])  # fmt: skip
    talk.take("hi")
    assert "expected loss 1.50" in talk.printed()


def test_what_parts_tell_is_told_of_a_single_stream_too(talk):
    """Which has no weights to tell apart, and so no bar."""
    talk.talker.stream = lambda *_: iter([
        Event(request=1, token=0, text="a", weights=(1.0,), figures={"energy": value}) for value in (9.0, 1.0)
    ])  # fmt: skip
    talk.take("hi")
    assert "energy 1.00" in talk.printed() and "█" not in talk.printed() and "one" not in talk.printed()


def test_the_best_of_several_is_asked_for(talk):
    talk.best = 3
    talk.take("hi")
    assert talk.talker.asked[0][-1] == 3


def test_quit_ends_it(talk):
    talk.take("/quit")
    assert talk.over


def test_error_of_the_model_is_told(talk):
    def refuse(*_):
        raise UsageError("no \x1b[31m")
        yield

    talk.talker.stream = refuse
    talk.take("hi")
    assert "no [31m" in talk.printed()


STRUCK = Path(__file__).with_name("struck.py")


@pytest.mark.parametrize(
    ("names", "stays"), [(["SIGINT"] * 3, True), (["SIGTERM"], False), (["SIGINT", "SIGTERM"], False)]
)
def test_every_ctrl_c_ends_an_answer_and_sigterm_the_conversation(names, stays):
    done = subprocess.run([sys.executable, STRUCK, *names], capture_output=True, text=True, timeout=600)
    assert ("at the end" in done.stdout) is stays and "two" not in done.stdout, done.stderr
    assert stays or "Stopped" in done.stderr


def test_a_turn_that_is_not_remembered_is_told(talk):
    talk.talker.stream = lambda *_: iter([Event(request=1, finish="stop", error="no space left")])
    talk.take("hi")
    assert "not remembered: no space left" in talk.printed()


@pytest.mark.slow
def test_a_whole_conversation(nano_run, tmp_path):
    """Standard input to its end: a message of two lines, memory off, and what was said in a file."""
    file = tmp_path / "said.json"
    command = [sys.executable, "-m", "nano_think", "chat", "--root", nano_run.root, "--memory", "off"]
    typed = f"In the \\\nbeginning\n/save {file}\n/nothing\n"
    done = subprocess.run([*command, "--max-new-tokens", "5"], input=typed, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert json.loads(file.read_text())["messages"][0] == {"role": "user", "content": "In the \nbeginning"}
    assert "unknown command" in done.stdout and "\x1b" not in done.stdout


@pytest.mark.slow
def test_a_finished_turn_is_remembered(nano_run, tmp_path):
    """Written by one conversation, counted by the next; the name of another is refused."""
    command = [sys.executable, "-m", "nano_think", "chat", "--root", nano_run.root, "--max-new-tokens", "5"]
    told = []
    for typed in ("hi there\n", "/memory\n"):
        done = subprocess.run([*command, "--namespace", "chat-test"], input=typed, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        told.append(done.stdout)
    assert re.search(r"'chat-test' holds [1-9]\d* entries", told[1])
    done = subprocess.run([*command, "--namespace", "../x"], input="/memory\n", capture_output=True, text=True)
    assert "namespace '../x'" in done.stdout
