"""Digits to look at."""

import sys

import numpy as np
import pytest

from nano_think.core.errors import UsageError
from nano_think.data.pictures import digits, split


def test_digits_are_there():
    found = digits()
    assert found.pixels_NHW.shape == (1797, 8, 8) and found.pixels_NHW.dtype == np.float32
    assert found.pixels_NHW.min() == 0 and found.pixels_NHW.max() == 1
    assert sorted(set(found.label_N.tolist())) == list(range(10))


def test_what_is_held_out_is_not_learned():
    """Every picture is on one side, the same one for the same seed."""
    found = digits()
    shown, held = split(found, 0.2, 1)
    assert len(held.label_N) == 359 and len(shown.label_N) == 1438
    both = np.concatenate([shown.pixels_NHW, held.pixels_NHW]).reshape(1797, -1)
    assert sorted(map(bytes, both)) == sorted(map(bytes, found.pixels_NHW.reshape(1797, -1)))
    assert np.array_equal(split(found, 0.2, 1)[1].label_N, held.label_N)
    assert not np.array_equal(split(found, 0.2, 2)[1].label_N, held.label_N)


def test_without_the_package_it_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UsageError, match=r"pip install 'nano_think\[images\]'"):
        digits()
