"""Stages that cost nothing: a word goes in, a file comes out."""

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import pytest

from nano_think.core.config import Config
from nano_think.stages.stage import Stage


@dataclass(frozen=True, kw_only=True, slots=True)
class WordConfig(Config):
    """What a toy stage is told."""

    word: str = "moon"


class Word(Stage):
    """Write the word, and what the inputs say, to a file; count how often that was done."""

    name = "word"
    builds: ClassVar[Counter] = Counter()

    def __init__(self, config, outside="sky", modules=("nano_think.core.rng",)):
        super().__init__(config)
        self.outside, self._modules = outside, list(modules)

    def fingerprint(self):
        return self.outside

    def modules(self):
        return self._modules

    def build(self, inputs, out, context):
        Word.builds[self.config.word] += 1
        said = [(artifact.path / "word.txt").read_text() for artifact in inputs.values()]
        (out / "word.txt").write_text(" ".join([*said, self.config.word]))
        (out / "work").mkdir(exist_ok=True)
        return {"letters": len(self.config.word)}


@pytest.fixture
def make_word():
    """Builds a toy stage: make_word("moon")."""
    Word.builds.clear()

    def make(word="moon", **more):
        return Word(WordConfig(word=word), **more)

    make.builds = Word.builds
    return make
