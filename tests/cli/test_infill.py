"""`nano-think infill`: a gap between two texts, the same twice."""

import pytest

GAP = ("infill", "--before", "In the", "--after", " was the word", "--tokens", 20)


def test_same_seed_same_filling(nano_run, say):
    """Also of a gap longer than the diffuser's largest block; each sample is another."""
    first, again = (say(*GAP, "--samples", 2, "--root", nano_run.root, "--json").json for _ in range(2))
    assert first == again and len(set(first["filled"])) == 2


def test_the_gap_is_shown_in_its_text(nano_run, say):
    told = say(*GAP, "--root", nano_run.root)
    assert told.code == 0 and told.out.startswith("In the[") and told.out.endswith("] was the word\n")


@pytest.mark.parametrize("wrong", [("--tokens", 0), ("--tokens", 9999), ("--samples", 0), ("--steps", -1)], ids=str)
def test_wrong_numbers_are_refused(nano_run, say, wrong):
    told = say(*GAP, *wrong, "--root", nano_run.root)
    assert told.code == 2 and told.err.count("\n") == 1
