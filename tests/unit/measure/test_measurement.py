"""Measurements of several parts, and the total of norms."""

import math
import warnings

import numpy as np
import pytest
import torch

from gradwatch.measure import Measurement, measure, norms, total
from gradwatch.measure.measurement import Part


def two_parts():
    return Measurement(
        ("norm", "nonfinite"),
        4,
        (
            Part([0, 3], torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64), None),
            Part([1], torch.tensor([[12.0], [2.0]], dtype=torch.float64), None),
        ),
    )


def test_parts_are_put_at_their_positions_and_the_rest_is_nan():
    found = two_parts().collect()
    np.testing.assert_array_equal(found["norm"], [3, 12, np.nan, 4])
    np.testing.assert_array_equal(found["nonfinite"], [0, 2, np.nan, 0])
    assert two_parts().present == [0, 3, 1]


@pytest.mark.parametrize("parts", [[[0, 2, 5]], [[5, 0, 2]], [[5], [0, 2]], []])
def test_what_is_there_is_read_in_ascending_order(parts):
    values = (torch.arange(2.0 * len(at)).view(2, -1).double() + 10 * number for number, at in enumerate(parts))
    measured = Measurement(
        ("norm", "zeros"), 6, tuple(Part(at, one, None) for at, one in zip(parts, values, strict=True))
    )
    at, table = measured.read()
    there = np.flatnonzero(~np.isnan(measured.collect()["norm"]))
    assert at == there.tolist() == sorted(position for part in parts for position in part)
    np.testing.assert_array_equal(table, measured.table()[:, there])


def test_the_total_over_parts():
    assert float(two_parts().total_on_device()) == pytest.approx(13.0)


@pytest.mark.parametrize(
    ("gradients", "expected"),
    [
        ([[1.0], [2.0]], False),
        ([[1.0], [math.nan]], True),
        ([[math.inf], [1.0]], True),
        ([[1e30] * 100], False),
        ([[]], False),
    ],
)
@pytest.mark.parametrize("stats", [("norm",), ("norm", "nonfinite")])
def test_whether_an_entry_is_not_finite(gradients, expected, stats):
    assert measure([torch.tensor(g) for g in gradients], stats).has_nonfinite() is expected


def test_norms_whose_sum_overflows_are_finite_and_warn_of_nothing():
    gradients = [torch.tensor([1.7e308], dtype=torch.float64)] * 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not measure(gradients, ("norm",)).has_nonfinite()


def test_measurements_of_single_gradients_are_joined():
    found = {2: measure([torch.tensor([3.0, 4.0])]), 0: measure([torch.tensor([math.nan])])}
    joined = Measurement.of_positions(found, 4, ("norm", "abs_max", "nonfinite", "zeros")).collect()
    np.testing.assert_array_equal(joined["norm"], [np.nan, np.nan, 5, np.nan])
    np.testing.assert_array_equal(joined["nonfinite"], [1, np.nan, 0, np.nan])


def test_nothing_was_measured():
    empty = norms([])
    assert empty.is_here
    assert empty.present == []
    assert empty.collect()["norm"].shape == (0,)


@pytest.mark.parametrize("values", [[], [0.0], [3.0, 4.0], [1e300, 1e300], [1e-300, 1e-300], [math.inf, 1.0]])
def test_the_total_is_the_root_of_the_sum_of_squares(values):
    assert total(np.array(values)) == pytest.approx(math.hypot(*values))


def test_the_total_with_a_nan_is_nan():
    assert math.isnan(total(np.array([1.0, math.nan, math.inf])))
