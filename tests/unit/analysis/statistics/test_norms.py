"""Median, 99th percentile and maximum of norms, compared with numpy."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gradwatch.analysis.statistics.norms import norm_summary

NAN, INF = math.nan, math.inf


@given(arrays(float, st.integers(1, 50), elements=st.floats(0, 1e12)))
def test_finite_norms(values):
    found = norm_summary(values, np.arange(len(values)) + 7)
    assert found.median == pytest.approx(np.median(values), rel=1e-9, abs=1e-200)
    assert found.p99 == pytest.approx(np.quantile(values, 0.99), rel=1e-9, abs=1e-200)
    assert found.max == values.max()
    assert found.max_step == 7 + int(values.argmax())
    assert found.last == values[-1]


def test_what_is_not_finite_counts_only_as_the_last():
    found = norm_summary(np.array([1.0, INF, 3.0, NAN]), np.arange(4))
    assert (found.median, found.max, found.max_step) == (2.0, 3.0, 2)
    assert math.isnan(found.last)


@pytest.mark.parametrize("values", [[NAN], [INF, INF]])
def test_without_a_finite_norm(values):
    found = norm_summary(np.array(values), np.arange(len(values)))
    assert (found.median, found.p99, found.max, found.max_step) == (None, None, None, None)


def test_float32_norms_are_summarized_as_they_are():
    values = np.array([1e38, 3e38], np.float32)
    assert norm_summary(values, np.arange(2)).median == pytest.approx(2e38, rel=1e-6)
