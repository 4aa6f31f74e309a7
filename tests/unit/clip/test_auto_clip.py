"""`AutoClip` against `numpy.percentile`, `QuantileClip` against its formula."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradwatch.clip import (
    AutoClip,
    QuantileClip,
    ZClip,
)

from .support import stream, thresholds_of


@pytest.mark.parametrize("percentile", [0, 10, 50, 99, 100])
@pytest.mark.parametrize("window", [1, 7, 1000])
def test_auto_clip_is_numpys_percentile_of_the_last_norms(percentile, window):
    norms = stream(1)
    found = thresholds_of(AutoClip(percentile, window), norms)
    expected = [np.percentile(norms[max(0, t - window + 1) : t + 1], percentile) for t in range(len(norms))]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("unclipped", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_quantile_clip_is_the_geometric_update(unclipped):
    norms = stream(2)
    found = thresholds_of(QuantileClip(unclipped, rate=0.05), norms)
    log = math.log(norms[0])
    for norm, threshold in zip(norms, found, strict=True):
        assert threshold == pytest.approx(math.exp(log), rel=1e-12)
        log += 0.05 * (unclipped - (norm <= math.exp(log)))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.5, 0.8, 0.9]))
def test_quantile_clip_leaves_the_wanted_share_unclipped(seed, unclipped):
    norms = np.exp(np.random.default_rng(seed).standard_normal(3000))
    found = thresholds_of(QuantileClip(unclipped), norms)
    assert np.mean(norms[500:] <= found[500:]) == pytest.approx(unclipped, abs=0.05)


@pytest.mark.parametrize("make", [lambda: AutoClip(30, 50), lambda: QuantileClip(0.8), ZClip])
def test_several_trainings_have_each_their_own_history(make):
    """What the benchmarks do: the norms of many trainings as one tensor."""
    together, streams = make(), [stream(seed, 120) for seed in range(3)]
    found = np.array([together.threshold(torch.tensor(row)).numpy() for row in np.stack(streams, 1)])
    for column, norms in zip(found.T, streams, strict=True):
        np.testing.assert_allclose(column, thresholds_of(make(), norms), rtol=1e-12)


@pytest.mark.parametrize("make", [lambda: AutoClip(10), lambda: QuantileClip(0.5)])
def test_without_a_usable_norm_nothing_is_clipped(make):
    found = thresholds_of(make(), [0.0, math.nan, math.inf, 0.0])
    assert np.isinf(found).all()
