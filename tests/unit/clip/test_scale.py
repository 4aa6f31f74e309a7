"""Coefficients and the multiplication by them."""

import math

import numpy as np
import pytest
import torch

from gradwatch.clip import scale as scaling
from gradwatch.clip.scale import TORCH_EPS, coefficient_of, scale, shrunk
from gradwatch.measure import measure


def test_a_device_computes_the_coefficient_by_itself():
    """The way of an accelerator, on the CPU."""
    for values, coefficient in (([3.0, 4.0], 0.2), ([0.3, 0.4], 1.0), ([math.nan, 1.0], 1.0), ([3e20, 4e20], 2e-21)):
        tensors = [torch.tensor(values[:1]), torch.tensor(values[1:])]
        expected = [tensor * coefficient for tensor in tensors]
        found = coefficient_of(measure(tensors).total_on_device(), 1.0)
        assert float(found) == pytest.approx(coefficient, rel=1e-5)
        scale(tensors, found)
        for one, other in zip(tensors, expected, strict=True):
            torch.testing.assert_close(one, other, equal_nan=True)


@pytest.mark.parametrize("eps", [0.0, TORCH_EPS])
@pytest.mark.parametrize("max_norm", [0.0, 1e-9, 1.0, 1e20, math.inf, math.nan])
@pytest.mark.parametrize("norm", [0.0, 1e-300, 1e-6, 1.0, 1e300, math.inf, math.nan])
def test_the_coefficient_as_a_number_and_as_a_tensor(norm, max_norm, eps):
    with np.errstate(all="ignore"):
        quotient = float(np.float64(max_norm) / np.float64(norm + eps))
    expected = 1.0 if not math.isfinite(norm) or math.isnan(quotient) else min(1.0, quotient)
    assert coefficient_of(norm, max_norm, eps) == pytest.approx(expected)
    assert float(coefficient_of(torch.tensor(norm, dtype=torch.float64), max_norm, eps)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param([3.0, 4.0], [1.5, 2.0], 0.5, id="two parts"),
        pytest.param([3.0, math.inf], [1.5, math.inf], 0.5, id="one that is not finite is left out"),
        pytest.param([math.nan], [math.nan], 1.0, id="nothing is left"),
        pytest.param([0.0], [0.0], 1.0, id="zeros"),
        pytest.param([3e200, 4e200], [3e199, 4e199], 0.1, id="huge"),
    ],
)
def test_how_far_the_total_shrank(before, after, expected):
    found = shrunk([torch.tensor(before, dtype=torch.float64)], [torch.tensor(after, dtype=torch.float64)])
    assert float(found) == pytest.approx(expected)


def test_what_the_kernel_has_multiplied_is_not_multiplied_again(monkeypatch):
    monkeypatch.setattr(scaling, "scale_in_one_launch", lambda gradients, factor: gradients[1:])
    gradients = [torch.ones(2), torch.ones(3)]
    scaling.scale(gradients, torch.tensor(0.5))
    assert [gradient.tolist() for gradient in gradients] == [[1, 1], [0.5, 0.5, 0.5]]
