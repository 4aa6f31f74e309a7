"""What only PyTorch's operators read, and what they read in one batch."""

import math

import numpy as np
import pytest
import torch

from gradwatch.measure import measure_updates

from .updating import check_steps, give_gradients, parameters


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
def test_float64_weights(kind, route):
    check_steps(kind, {"weight_decay": 0.1}, dtype=torch.float64, tolerance=1e-9)


def test_a_nan_stays_in_its_parameter(route):
    weights = parameters()
    optimizer = torch.optim.Adam(weights)
    give_gradients(weights, 0)
    weights[0].grad[0, 0] = math.nan
    optimizer.step()
    found = measure_updates(optimizer, weights).collect()
    for values in found.values():
        assert np.isnan(values).tolist() == [True, False, False, False]
