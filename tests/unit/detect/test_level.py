"""Streaming levels, compared with numpy on the window."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.detect.level import LayerLevels, Level, median


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=60))
def test_the_streaming_level_is_the_median_of_the_window(norms):
    """At every prefix, against numpy."""
    level = Level(window=16, least=1)
    for i, norm in enumerate(norms):
        level.add(norm)
        window = sorted(norms[max(0, i - 15) : i + 1])
        assert level.value == pytest.approx(window[len(window) // 2])


@given(st.lists(st.floats(-1e300, 1e300) | st.just(float("nan")) | st.just(float("inf"))))
def test_the_median_of_what_is_not_nan_is_numpys(values):
    found = median(values)
    known = [value for value in values if not np.isnan(value)]
    assert found == (pytest.approx(float(np.median(known))) if known else pytest.approx(np.nan, nan_ok=True))
    assert median(np.array(values)) == pytest.approx(found, nan_ok=True)


def test_a_lagged_level_does_not_see_the_last_steps():
    level = Level(window=100, least=1, lag=60)
    for norm in [1.0] * 40 + [99.0] * 60:
        level.add(norm)
    assert level.value == pytest.approx(1.0)


def test_a_history_without_layers_names_nobody():
    assert LayerLevels().first_to_leave() == (None, None)
    assert LayerLevels().highest() == (None, None)
