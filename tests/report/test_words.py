"""Numbers read as people write them."""

import math

import pytest

from nano_think.report import words


@pytest.mark.parametrize(("say", "value", "said"), [
    (words.fixed, 2.12345, "2.123"), (words.fixed, None, "–"), (words.fixed, math.nan, "–"),
    (words.count, 1234567, "1,234,567"), (words.count, None, "–"),
    (words.short, 800_000, "800k"), (words.short, 1_557_180, "1.56M"), (words.short, 12, "12"), (words.short, 0, "0"),
    (words.short, 999_900, "1M"),
    (words.size, 512, "512 B"), (words.size, 3_000_000, "3.00 MB"), (words.size, 72_300, "72.3 kB"),
    (words.size, 999_600, "1.00 MB"), (words.size, 2.5e9, "2.50 GB"),
    (words.seconds, 0.4231, "0.42 s"), (words.seconds, 4.21, "4.2 s"), (words.seconds, 42.4, "42 s"),
    (words.seconds, 185, "3 min 05 s"), (words.seconds, None, "–"),
    (words.share, 0.234, "23%"), (words.share, 0.0012, "0.1%"), (words.share, 0.0, "0%"),
    (words.moment, "2026-01-31T12:00:59+00:00", "2026-01-31 12:00 UTC"), (words.moment, "soon", "soon"),
    (words.name, "state_space", "state space"),
    (words.listed, ["a"], "a"), (words.listed, ["a", "b", "c"], "a, b and c"), (words.listed, [], "–"),
])  # fmt: skip
def test_said(say, value, said):
    assert say(value) == said


@pytest.mark.parametrize(("value", "other", "said"), [
    (1.98, 2.0, "1.0% lower"), (2.02, 2.0, "1.0% higher"), (2.0004, 2.0, "the same to 0.1%"),
    (1.0, 0.0, "not comparable"),
])  # fmt: skip
def test_apart(value, other, said):
    assert words.apart(value, other) == said
