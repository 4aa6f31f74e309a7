"""The balance of growth and decay, compared with a training that is simulated."""

import math

import pytest
import torch

from gradwatch.analysis.statistics.steady_state import expected_rise, steady_gradient_ratio


@pytest.mark.parametrize(("rate", "decay"), [(0.1, 0.1), (0.02, 0.5), (0.5, 0.01)])
def test_a_scale_invariant_weight_comes_to_the_ratio(rate, decay):
    """The gradient is orthogonal to the weights and shrinks as they grow, as in a normalised layer."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(2000))
    optimizer = torch.optim.SGD([weight], lr=rate, weight_decay=decay)
    ratios = []
    for step in range(4000):
        direction = torch.randn(2000)
        direction -= weight.detach() * (direction @ weight.detach()) / weight.detach().square().sum()
        weight.grad = direction / weight.detach().norm()
        if step >= 3000:
            ratios.append(float(weight.grad.norm() / weight.detach().norm()))
        optimizer.step()
    assert sum(ratios) / len(ratios) == pytest.approx(steady_gradient_ratio(rate, decay), rel=0.1)


def test_without_decay_the_gradient_vanishes_beside_the_weights():
    assert steady_gradient_ratio(0.1, 0.0) == 0.0


@pytest.mark.parametrize(("rate", "decay"), [(0.0, 0.1), (-1.0, 0.1), (math.nan, 0.1), (0.1, math.nan), (0.1, -1.0)])
def test_what_has_no_balance_is_unknown(rate, decay):
    assert math.isnan(steady_gradient_ratio(rate, decay))


def test_a_falling_rate_lets_the_ratio_grow_by_its_root():
    assert expected_rise(1.0, 0.01) == pytest.approx(10.0)
    assert expected_rise(0.1, 0.1) == 1.0
    assert math.isnan(expected_rise(0.1, 0.0))
