"""The distribution of norms counts every step once, and tells the share that a threshold clips."""

import numpy as np
import pytest

from gradwatch.analysis.recommend.what_if import clipped_fraction
from gradwatch.analysis.statistics.distribution import ACCURACY, distribution

RANDOM = np.random.default_rng(3)


def lognormal(size):
    return np.exp(RANDOM.normal(0, 3, size))


@pytest.mark.parametrize("spans", [1, 7, 64, 5000])
def test_every_step_is_counted_in_the_bin_of_its_norm(spans):
    norms = lognormal(1000)
    norms[::10], norms[5::50], norms[6::50] = 0.0, np.nan, np.inf
    found = distribution(np.arange(1000) * 2, norms, 100, 1699, spans)
    part = norms[50:850]
    assert len(found.first) == min(spans, 800)
    assert (found.first[0], found.last[-1]) == (100, 1698)
    assert (found.first[1:] == found.last[:-1] + 2).all(), "spans follow each other"
    assert found.zeros.sum() == (part == 0).sum()
    assert found.unknown.sum() == (~np.isfinite(part)).sum()
    assert found.counts.sum() + found.zeros.sum() + found.unknown.sum() == 800
    for first, last, counts in zip(found.first, found.last, found.counts, strict=True):
        own = np.sort(norms[first // 2 : last // 2 + 1])
        own = own[np.isfinite(own) & (own > 0)]
        np.testing.assert_allclose(np.repeat(found.norms, counts), own, rtol=ACCURACY * 1.001)


@pytest.mark.parametrize("threshold", [1e-3, 0.3, 1.0, 7.0, 1e3])
def test_the_share_clipped_is_that_of_a_threshold_within_the_accuracy(threshold):
    norms = lognormal(20_000)
    found = distribution(np.arange(len(norms)), norms, 0, len(norms))
    told = found.counts[0][found.norms > threshold].sum() / len(norms)
    low, high = (clipped_fraction(norms, threshold * (1 + by)) for by in (ACCURACY, -ACCURACY))
    assert low <= told <= high


@pytest.mark.parametrize("norms", [[], [np.nan, np.inf], [0.0]])
def test_steps_without_a_positive_norm_have_no_bin(norms):
    found = distribution(np.arange(len(norms)), np.array(norms, float), -5, 5, 3)
    assert found.norms.size == 0
    assert found.counts.shape == (len(norms), 0)
    assert found.unknown.sum() + found.zeros.sum() == len(norms)


def test_a_range_without_a_step_is_empty():
    found = distribution(np.arange(10), np.ones(10), 20, 30)
    assert found.counts.shape[0] == 0
    assert found.first.size == 0


def test_extreme_norms_have_bins_of_their_own():
    norms = np.array([5e-324, 1e-30, 1e307])
    found = distribution(np.arange(3), norms, 0, 2)
    assert found.counts.tolist() == [[1, 1, 1]]
    np.testing.assert_allclose(found.norms[1:], norms[1:], rtol=ACCURACY * 1.001)
