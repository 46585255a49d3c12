"""The histogram of lengths: every domain, every bin, and nothing where nothing was counted."""

import pytest

from nano_think.report.lengths import TALL, histograms, lengths
from nano_think.report.palette import INK, css
from nano_think.report.pictures import NARROW, WIDE, picture
from nano_think.report.words import power_of_two


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_every_domain_has_its_panel(make, width):
    """Name, number of documents, the median's bin with its share, and the limits of bins along the axis."""
    drawn = picture(make(), "lengths", width)
    assert drawn and all(domain in drawn for domain in ("code", "encyclopaedia", "theology"))
    assert "599 documents, median 8 KiB to 16 KiB" in drawn and ">24%</text>" in drawn
    assert ">512 B</text>" in drawn and ">32 KiB</text>" in drawn
    assert css(INK) in drawn


def test_a_bar_for_every_bin(make):
    """A single document among thousands leaves a mark; bars are as high as their shares."""
    figure = lengths(make(domains={"d": 1.0}, lengths={"d": {"4": 1, "11": 2500, "12": 7499}}), WIDE)
    assert figure
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    points = TALL / figure.axes[0].get_ylim()[1]
    assert heights[0] * points == pytest.approx(1) and heights[1:] == [0.25, 0.7499]


def test_bins_are_sorted_by_size_and_bad_ones_left_out(make):
    """Keys are words in a manifest: 10 comes after 9; a manifest of another version is no fault."""
    counts = {"10": 5, "9": 1, "x": 3, "3": 0, "4": None, "-1": 2}
    assert histograms(make(lengths={"b": counts, "a": {}, "c": None})) == {"b": {9: 1, 10: 5}}
    assert picture(make(lengths={"a": {}}), "lengths") is None
    assert picture(make(lengths={}), "lengths") is None
    assert picture(make(lengths=None), "lengths") is None


def test_powers_of_two_are_read_in_binary_units():
    """1,024 bytes are a KiB, and nothing is rounded."""
    assert [power_of_two(k) for k in (0, 9, 10, 19, 20, 30, 41)] == [
        "1 B", "512 B", "1 KiB", "512 KiB", "1 MiB", "1 GiB", "2048 GiB",
    ]  # fmt: skip
