"""The ablation table: complete, calibrated against calibrated, paired."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from nano_think.evaluation.ablation import ablation
from nano_think.evaluation.bits_per_byte import score, summarise
from tests.evaluation.test_reading import make_documents, make_memories
from tests.evaluation.test_scorers import make_controls
from tests.tiny import tiny_mixture


@pytest.fixture(scope="module")
def scored():
    model = tiny_mixture()
    return model, score(model, make_documents(), 16, make_memories(0.3), controls=make_controls(model))


def test_every_row_is_there_with_both_figures(scored):
    model, frame = scored
    found = ablation(frame, model.names)
    memories = {"persistent", "persistent_shuffled", "scratch", "scratch_shuffled"}
    mixed = {"uniform", "static", "without_diffuser", "mixture", "oracle", "dense"}
    assert {row["scorer"] for row in found["rows"]} == {*model.names, *mixed, *memories}
    assert all(row["bits_per_byte"] > 0 and row["calibrated"] > 0 for row in found["rows"])
    assert found["documents"] == len(frame) and found["best_expert"] in model.names
    against = {row["scorer"]: row["against"]["dense"] for row in found["rows"]}
    assert {name for name, one in against.items() if one is None} == {"dense", *memories}
    json.dumps(found, allow_nan=False)


def test_memory_on_top_of_the_calibrated_mixture(scored):
    """Memories that are off are the calibrated mixture, bit for bit."""
    model, _ = scored
    frame = score(model, make_documents(), 16, make_memories(0.0), controls=make_controls(model))
    assert (frame["calibrated.scratch"] == frame["calibrated.mixture"]).all()
    assert (frame["scratch"] == frame["mixture"]).all()


def test_figures_by_hand():
    """Two documents of 10 bytes; calibrated b is the best expert, although plain a is."""
    frame = pd.DataFrame({
        "domain": "x", "bytes": 10, "tokens": 5, "a": [1.0, 2.0], "b": [3.0, 4.0], "mixture": [2.0, 2.0],
        "calibrated.a": [2.0, 4.0], "calibrated.b": [1.0, 3.0], "calibrated.mixture": [2.0, 6.0], "weight.a": 0.5,
    })  # fmt: skip
    found = ablation(frame, ["a", "b"])
    assert found["best_expert"] == "b"
    a, b, mixture = found["rows"]
    assert (a["scorer"], a["bits_per_byte"], a["calibrated"]) == (
        "a", pytest.approx(3 / 20 / math.log(2)), pytest.approx(6 / 20 / math.log(2)),
    )  # fmt: skip
    assert b["against"] == {"best_expert": None, "dense": None}
    # The mixture is twice b in every document, and so in every resample.
    assert mixture["against"]["best_expert"] == pytest.approx({"change": 1.0, "low": 1.0, "high": 1.0})
    assert a["against"]["best_expert"] == pytest.approx({"change": 0.5, "low": 1 / 3, "high": 1.0})


def test_without_calibration_nothing_is_compared():
    frame = pd.DataFrame({"domain": "x", "bytes": [3], "tokens": [2], "a": [1.0], "mixture": [2.0]})
    found = ablation(frame, ["a"])
    assert found["best_expert"] is None
    assert all(row["calibrated"] is None and not any(row["against"].values()) for row in found["rows"])


def test_empty_documents_are_no_fault():
    frame = pd.DataFrame({"domain": "x", "bytes": [3, 0, 0], "tokens": [2, 0, 0], "a": [1.0, 0, 0], "b": [2.0, 0, 0]})
    frame = frame.assign(**{f"calibrated.{name}": frame[name] for name in "ab"})
    (_, row) = ablation(frame, ["a"])["rows"]
    assert row["against"]["best_expert"] == pytest.approx({"change": 1.0, "low": 1.0, "high": 1.0})


def test_calibrated_figures_of_the_summary_are_those_of_the_table(scored):
    model, frame = scored
    figures = summarise(frame, model.names)
    rows = {row["scorer"]: row for row in ablation(frame, model.names)["rows"]}
    assert figures["calibrated"]["bits_per_byte"] == pytest.approx(rows["mixture"]["calibrated"])
    assert figures["calibrated"]["dense"] == pytest.approx(rows["dense"]["calibrated"])
    assert figures["dense"] == pytest.approx(rows["dense"]["bits_per_byte"])
    assert np.isfinite(figures["domains"]["odd"]["dense"])
