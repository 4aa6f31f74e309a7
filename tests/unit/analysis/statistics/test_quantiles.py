"""Quantiles against numpy, and drawings that hide nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.analysis.statistics.quantiles import any_in, quantile, spike_safe


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.floats(0, 1))
def test_quantile_is_numpys(values, share):
    ordered = np.sort(np.array(values))
    assert quantile(ordered, share) == pytest.approx(np.quantile(ordered, share), rel=1e-9, abs=1e-9)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300), st.integers(1, 100), st.data())
def test_no_width_hides_a_spike(values, width, data):
    """Wherever one step stands out it is in the drawing, and a NaN with it."""
    where = data.draw(st.integers(0, len(values) - 1))
    values[where] = 1e9
    drawn = spike_safe(np.array(values), width)
    assert len(drawn) == min(width, len(values))
    assert np.nanmax(drawn) == 1e9
    flags = np.zeros(len(values), bool)
    flags[where] = True
    assert any_in(flags, width).sum() == 1


def test_nothing_has_no_quantile_and_no_stretches():
    assert quantile(np.array([]), 0.5) is None
    assert len(spike_safe(np.array([]), 10)) == len(any_in(np.array([], bool), 10)) == 0


def test_a_stretch_of_nan_alone_is_nan():
    assert np.isnan(spike_safe(np.array([np.nan, np.inf, 1.0, 2.0]), 2)[0])
