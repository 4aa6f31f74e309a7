"""PyTorch's operators on the CPU and as an accelerator would use them, against float64 numpy."""

import math

import numpy as np
import pytest
import torch

from gradwatch.measure import operators
from gradwatch.record import STATS

TENSORS = [
    torch.linspace(-1, 1, 70),
    torch.zeros(3),
    torch.zeros(0),
    torch.tensor([math.nan, 1.0]),
    torch.tensor([-math.inf, 0.0]),
    torch.full((40_000,), 0.1),
    torch.linspace(-3, 2, 100_001).to(torch.bfloat16),
    torch.full((5,), 3.0, dtype=torch.float64),
]


def oracle(tensor):
    x = tensor.double().numpy().ravel()
    return [
        float(np.linalg.norm(x)),
        float(np.abs(x).max(initial=0.0)),
        float((~np.isfinite(x)).sum()),
        float((x == 0).sum()),
    ]


@pytest.mark.parametrize("measured_by", [operators.on_cpu, operators.on_device])
def test_the_statistics_of_a_mixed_list(measured_by):
    found = measured_by(TENSORS, STATS).double().numpy()
    expected = np.array([oracle(tensor) for tensor in TENSORS]).T
    # An accelerator's single pass over 40,000 equal float32 entries is less exact than the rows of the CPU.
    rtol = 1e-6 if measured_by is operators.on_cpu else 1e-4
    np.testing.assert_allclose(found, expected, rtol=rtol)


@pytest.mark.parametrize("measured_by", [operators.on_cpu, operators.on_device])
def test_only_the_statistics_that_are_wanted(measured_by):
    assert measured_by([torch.ones(4)], ("zeros", "norm")).tolist() == [[0.0], [2.0]]


@pytest.mark.parametrize("value", [1e-45, 1e-30, 1e19, 1e38])
def test_squares_that_leave_float32_do_not_spoil_the_norm(value):
    for size in (5, 50_000):
        tensor = torch.full((size,), value)
        (norm,) = operators.on_cpu([tensor], ("norm", "abs_max"))[0].tolist()
        assert norm == pytest.approx(float(tensor[0].double()) * math.sqrt(size), rel=1e-6)
