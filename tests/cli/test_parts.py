"""What a chat model's parts bring to the command line, with a model that has them and with one that has none."""

import io

import pytest
from rich.console import Console

from nano_think.cli.conversation import Conversation
from nano_think.inference.sampling import SamplingConfig
from nano_think.parts import PARTS
from nano_think.stages.talking import load
from tests.tiny_chat_model import write_chat_model

PROMPT = ("--prompt", "In the beginning", "--max-new-tokens", 8, "--seed", 3)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a chat model with every part."""
    return write_chat_model(tmp_path_factory.mktemp("all"), *PARTS).path


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The folder of a chat model without parts."""
    return write_chat_model(tmp_path_factory.mktemp("none")).path


def test_generate_is_steered(say, model):
    """A mode that is turned up all the way speaks alone; else none does."""
    for psyche, alone in (("superego=20", "superego"), ("id=20,superego=-20", "id"), ("", None)):
        told = say("generate", "--model", model, *PROMPT, "--psyche", psyche, "--json")
        assert told.code == 0, told.err
        weights = [token["weights"] for token in told.json["tokens"]]
        assert {name for one in weights for name, weight in one.items() if weight > 0.99} == (
            {alone} if alone else set()
        )


@pytest.mark.parametrize("verb", [("generate", *PROMPT), ("chat", "--memory", "off")])
def test_what_is_not_there_is_not_steered(say, model, plain, verb):
    for folder, psyche, said in ((plain, "id=1", "this model has none"), (model, "soul=1", "unknown 'soul'")):
        told = say(*verb, "--model", folder, "--psyche", psyche)
        assert told.code == 2 and said in told.err and "Traceback" not in told.err


def test_generate_shows_the_best_of_several(say, model):
    """One of those whose seeds follow the first."""
    alone = [say("generate", "--model", model, *PROMPT[:-1], seed, "--json").json["text"] for seed in (3, 4, 5)]
    best = say("generate", "--model", model, *PROMPT, "--best-of", 3, "--json").json["text"]
    assert len(set(alone)) == 3 and best in alone


@pytest.mark.parametrize(
    ("verb", "more", "said"),
    [
        ("generate", (*PROMPT, "--best-of", 2), "this model tells no energy"),
        ("chat", ("--memory", "off", "--best-of", 2), "this model tells no energy"),
        ("chat", ("--best-of", 0), "--best-of: wanted at least 1, got 0"),
    ],
)
def test_there_is_no_best_without_energy(say, plain, verb, more, said):
    told = say(verb, "--model", plain, *more)
    assert told.code == 2 and said in told.err


def test_a_memory_keeps_one_answer(say, model):
    told = say("chat", "--model", model, "--best-of", 2)
    assert told.code == 2 and "wanted memory off or read" in told.err


def test_a_turn_tells_modes_and_energy(model):
    """Steered and unsteered, of one answer and of the best of several."""
    told = io.StringIO()
    talk = Conversation(
        talker=load(model), namespaces={}, sampling=SamplingConfig(), max_new_tokens=6, memory="off", namespace="a",
        console=Console(file=told, width=200),
    )  # type: ignore[arg-type] # fmt: skip
    for line in ("hi", "/psyche ego=20", "hi"):
        talk.take(line)
    talk.best = 2
    talk.take("hi")
    answers = [line for line in told.getvalue().splitlines() if "energy" in line]
    assert len(answers) == 3 and "ego 100%" in answers[1] and "ego 100%" in answers[2]
    assert "id " in answers[0] and "superego 100%" not in answers[0] and "expected loss" in answers[0]


WORDS = "In the beginning was the word.\n1 + 2 = 3\nand the word was with all of them\n" * 4


def test_concepts_finds_the_phrase_itself(say, model, tmp_path):
    """A piece of the text that is searched is nearest to itself."""
    (tmp_path / "text.txt").write_text(WORDS)
    found = say("concepts", "--model", model, "--file", tmp_path / "text.txt", "--text", "x", "--k", 99, "--json").json
    phrase = found["found"][5]
    told = say("concepts", "--model", model, "--file", tmp_path / "text.txt", "--text", phrase["text"], "--json").json
    assert told["concept"] == phrase["concept"] == told["found"][0]["concept"] and told["bits"] == phrase["bits"]
    assert told["found"][0]["differing"] == 0 and len(told["found"]) == 5 < told["searched"]


def test_concepts_looks_ahead(say, model, tmp_path):
    """The likeliest first, for people too."""
    (tmp_path / "text.txt").write_text(WORDS)
    words = ("concepts", "--model", model, "--file", tmp_path / "text.txt", "--text", "In the beginning", "--ahead")
    told = say(*words, "--json").json["found"]
    assert [one["p"] for one in told] == sorted((one["p"] for one in told), reverse=True) and 0 < told[0]["p"] < 1
    lines = say(*words).out.splitlines()
    assert len(lines) == 6 and lines[0].startswith("concept ") and " bits apart, similarity " in lines[1]


def test_concepts_refuses(say, model, plain, tmp_path):
    for words, said in (
        (("--model", plain, "--text", "a"), "concepts: this model has none"),
        (("--model", model, "--text", "a"), "no held-out text of this model's run"),
        (("--model", model, "--text", ""), "--text: wanted a phrase"),
        (("--model", model, "--text", "a", "--k", 0), "--k: wanted at least 1"),
        (("--model", model, "--text", "a", "--file", tmp_path / "no"), "cannot be read"),
    ):
        file = () if "--file" in words or said.startswith("no held-out") else ("--file", __file__)
        told = say("concepts", *words, *file)
        assert told.code in (2, 3) and said in told.err and "Traceback" not in told.err, told.err
