"""Chats that are made, not written: sums, and words to spell. What is held out for questions is in no chat.

The words are those of the starter's encyclopaedia, so that whoever has the starter corpus has these too.
"""

import hashlib
import random
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

LICENCE = "made by nano_think (MIT); words are no work of anybody"
HELD_OUT = 20
"""One sum and one word in so many is never in a chat."""
FEWEST = 3
"""How often a word has to stand in the encyclopaedia to be taken for one."""


class Question(NamedTuple):
    """What a user asks, and all that the assistant should answer."""

    question: str
    answer: str


def is_held_out(what: str) -> bool:
    """Whether a sum or a word is kept for questions: by its hash alone, so that nothing moves it."""
    return int(hashlib.sha256(what.encode()).hexdigest(), 16) % HELD_OUT == 0


def ask_sum(a: int, sign: str, b: int) -> str:
    """How a sum is asked for, in chats and in tests."""
    return f"What is {a} {sign} {b}?"


def ask_spelling(wrong: str) -> str:
    """How a spelling is asked for, in chats and in tests."""
    return f"Correct the spelling of this word: {wrong}"


def sums(held_out: bool) -> Iterator[Question]:
    """Additions and subtractions of numbers below 100 and products of numbers up to 12, in a drawn order."""
    pairs = [(a, sign, b) for a in range(100) for b in range(100) for sign in "+-" if sign == "+" or a >= b]
    pairs += [(a, "*", b) for a in range(13) for b in range(13)]
    random.Random(0).shuffle(pairs)
    for a, sign, b in pairs:
        if is_held_out(f"{a}{sign}{b}") == held_out:
            result = {"+": a + b, "-": a - b, "*": a * b}[sign]
            yield Question(ask_sum(a, sign, b), str(result))


def spellings(words: list[str], held_out: bool) -> Iterator[Question]:
    """A slip of the pen in each word, and the word; the slip is drawn by the word alone."""
    for word in words:
        if is_held_out(word) == held_out:
            yield Question(ask_spelling(slip(word)), word)


def slip(word: str) -> str:
    """The word with two letters swapped, one left out, or one written twice; never the word itself."""
    dice = random.Random(word)
    while True:
        place, kind = dice.randrange(1, len(word)), dice.randrange(3)
        wrong = (
            word[: place - 1] + word[place] + word[place - 1] + word[place + 1 :],
            word[:place] + word[place + 1 :],
            word[:place] + word[place] + word[place:],
        )[kind]
        if wrong != word:
            return wrong


def common_words(texts: Iterator[str]) -> list[str]:
    """Words of 4 to 10 plain letters, written small, that come at least `FEWEST` times; in a drawn order."""
    counts = Counter(word for text in texts for word in re.findall(r"(?<![\w'-])[a-z]{4,10}(?![\w'-])", text))
    words = sorted(word for word, count in counts.items() if count >= FEWEST)
    random.Random(0).shuffle(words)
    return words
