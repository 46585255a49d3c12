"""The second design's scripts as doors to the verbs: they hand `--checkpoint X` on as `--model X`."""

import sys

from nano_think.cli.main import main


def enter(verb: str) -> int:
    """Run a verb with the words of this process's command line; `--checkpoint latest` is the newest chat model."""
    sys.argv[1:] = [verb, *_translated(sys.argv[1:])]
    return main()


def _translated(words: list[str]) -> list[str]:
    joined = [part for word in words for part in (_split(word) if word.startswith("--checkpoint=") else [word])]
    for place, word in enumerate(joined):
        if word == "--checkpoint":
            joined[place] = "--model"
            if joined[place + 1 : place + 2] == ["latest"]:
                joined[place + 1] = "chat-latest"
    return joined


def _split(word: str) -> list[str]:
    name, _, value = word.partition("=")
    return [name, value]
