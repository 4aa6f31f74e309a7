"""One explosion does not flatten an axis, and no usual value is cut off."""

import statistics

import numpy as np
import pytest

from gradwatch.views.axes import end_of_axis


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param([3.0], 300.0, id="one value"),
        pytest.param([2.0] * 30 + [1e30], 200.0, id="an explosion"),
        pytest.param([1.0] * 60 + [1e6] * 40, 1e6, id="a level that many values have"),
        pytest.param([1e-300, 1e-300], 1e-298, id="values near the least"),
    ],
)
def test_the_axis_ends_at_a_hundred_medians_or_where_many_values_are(values, expected):
    assert end_of_axis(np.array(values)) == pytest.approx(expected)


def test_at_most_a_twentieth_of_the_values_is_cut_off():
    for seed in range(20):
        values = np.exp(np.random.default_rng(seed).normal(scale=5, size=999))
        end = end_of_axis(values)
        assert sum(value > end for value in values) <= 50
        assert end >= 100 * statistics.median(values)
