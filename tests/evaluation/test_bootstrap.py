"""The bootstrap: paired, seeded, and right about how sure it is."""

import numpy as np
import pytest

from nano_think.evaluation import bootstrap
from nano_think.evaluation.bootstrap import RESAMPLES, interval, resampled_totals


def test_columns_share_their_resamples():
    """What is twice as long in every document is twice as long in every resample."""
    one_N = np.random.default_rng(0).exponential(size=50)
    drawn_SC = resampled_totals(np.stack([one_N, 2 * one_N], axis=1))
    assert drawn_SC.shape == (RESAMPLES, 2)
    np.testing.assert_allclose(drawn_SC[:, 1], 2 * drawn_SC[:, 0])
    assert drawn_SC[:, 0].std() > 0


def test_the_seed_decides_and_blocks_do_not(monkeypatch: pytest.MonkeyPatch):
    values_NC = np.random.default_rng(0).exponential(size=(30, 3))
    whole = resampled_totals(values_NC, seed=1)
    assert not np.allclose(whole, resampled_totals(values_NC, seed=2))
    monkeypatch.setattr(bootstrap, "BLOCK", 100)
    np.testing.assert_allclose(resampled_totals(values_NC, seed=1), whole)


def test_totals_are_centred_and_spread_as_the_sum_of_the_documents():
    values_N1 = np.random.default_rng(0).normal(5, 2, size=(200, 1))
    drawn_S1 = resampled_totals(values_N1, resamples=4000)
    assert drawn_S1.mean() == pytest.approx(values_N1.sum(), rel=0.01)
    assert drawn_S1.std() == pytest.approx(values_N1.std() * 200**0.5, rel=0.05)


def test_intervals_cover_the_truth_as_often_as_they_say():
    """Ratio of two paired totals whose truth is 0.9, over 300 samples of 100 documents."""
    dice, hits = np.random.default_rng(0), 0
    for seed in range(300):
        length_N = dice.exponential(size=100)
        pair_NC = np.stack([length_N * (0.9 + 0.2 * dice.normal(size=100)), length_N], axis=1)
        drawn_SC = resampled_totals(pair_NC, resamples=400, seed=seed)
        low, high = interval(drawn_SC[:, 0] / drawn_SC[:, 1])
        hits += low <= 0.9 <= high
    assert 0.90 <= hits / 300 <= 0.98
