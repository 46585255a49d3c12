"""Pictures show every series under its name, in its colour, and are the same for the same data."""

import subprocess
import sys
from itertools import pairwise

import pytest

from nano_think.report import ReportData, write_pictures
from nano_think.report.palette import DENSE, EXPERTS, INK, QUIET, colour_of, css
from nano_think.report.pictures import NARROW, PICTURES, WIDE, picture
from nano_think.report.plots import spread

NAMES = ["diffuser", "state_space", "transformer"]


def test_pictures_are_written_and_repeat(make, tmp_path):
    first, second = (write_pictures(make(), tmp_path / name) for name in ("one", "two"))
    assert [path.name for path in first] == [f"{name}.png" for name in PICTURES]
    for one, two in zip(first, second, strict=True):
        data = one.read_bytes()
        assert data.startswith(b"\x89PNG") and len(data) > 5000
        assert data == two.read_bytes()


def test_no_data_no_picture(tmp_path):
    assert write_pictures(ReportData(preset="nano", created=""), tmp_path / "none") == []


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("name", [name for name in PICTURES if name != "lengths"])
def test_series_are_named_and_coloured(make, name, width):
    drawn = picture(make(), name, width)
    assert drawn and drawn.startswith("<svg viewBox=") and "http" not in drawn
    for expert, colour in zip(("diffuser", "state space", "transformer"), EXPERTS, strict=False):
        assert expert in drawn
        assert css(colour) in drawn


def test_bars_hold_the_values(make):
    drawn = picture(make(), "bits_per_byte")
    assert drawn and all(f">{value}</text>" in drawn for value in ("2.267", "2.125", "2.100", "2.076", "1.789"))


def test_strange_names_are_drawn_as_they_are(make):
    drawn = picture(make(domains={"$x_{": 1.0, "a < b & c": 1.1, "神学": 0.9, "_": 1.0}), "routing")
    assert drawn and "$x_{" in drawn and "a &lt; b &amp; c" in drawn and "神学" in drawn


def test_a_colour_belongs_to_an_expert():
    assert [colour_of(name, NAMES) for name in NAMES] == list(EXPERTS[:3])
    assert colour_of("mixture", NAMES) == colour_of("router", NAMES) == INK
    assert (colour_of("dense", NAMES), colour_of("uniform", NAMES)) == (DENSE, QUIET)
    many = [f"expert_{k}" for k in range(8)]
    assert colour_of("expert_7", many) == EXPERTS[1]


def test_labels_keep_their_distance_and_order():
    wanted = {"a": 10.0, "b": 11.0, "c": 50.0, "d": 9.0}
    placed = spread(wanted, 13)
    heights = [placed[name] for name in ("d", "a", "b", "c")]
    assert all(above - below >= 13 - 1e-9 for below, above in pairwise(heights))
    assert placed["c"] == 50 and sum(heights[:3]) == pytest.approx(30)


def test_no_torch_and_no_pyplot():
    code = "import sys, nano_think.report; assert not {'torch', 'matplotlib.pyplot'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
