"""How many entries of a large model are read, and which."""

import numpy as np
import pytest
import torch
from torch import nn

from gradwatch.measure import measure_updates


def test_a_large_model_is_sampled_without_bias(route):
    """Over many draws of the weights the squared estimate is right on average, and each is near."""
    quotients = []
    for seed in range(20):
        torch.manual_seed(seed)
        weight = nn.Parameter(torch.randn(300, 200))
        weight.grad = torch.randn(300, 200) * torch.rand(300, 1)
        optimizer = torch.optim.SGD([weight], lr=0.1)
        before = weight.detach().clone()
        optimizer.step()
        found = measure_updates(optimizer, [weight], most=4096).collect()
        quotients.append(found["update_norm"][0] / float((weight.detach() - before).norm()))
    assert np.mean(np.square(quotients)) == pytest.approx(1.0, abs=0.03)
    assert np.ptp(quotients) < 0.25


@pytest.mark.parametrize("rows", [512, 4096])
def test_a_model_of_262144_entries_is_read_whole_and_a_larger_one_in_part(route, rows):
    weight = nn.Parameter(torch.randn(rows, 512))
    weight.grad = torch.zeros(rows, 512)
    weight.grad[::2, 1::7] = 1.0  # an even sample of a few rows is off by more than rounding
    optimizer = torch.optim.SGD([weight], lr=0.1)
    optimizer.step()
    found = measure_updates(optimizer, [weight]).collect()["update_norm"][0]
    error = abs(found / (0.1 * float(weight.grad.norm())) - 1)
    assert error < 1e-5 if rows == 512 else 1e-5 < error < 0.1
