"""The balance of growth and decay, compared with a training that is simulated."""

import math

import pytest
import torch

from gradwatch.detect.steady_state import expected_rise, explained_rise, steady_gradient_ratio


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


@pytest.mark.parametrize(("decay", "steps"), [(0.1, 100), (0.1, 600), (0.02, 600)])
def test_norms_rise_no_further_than_decay_explains(decay, steps):
    """After the rate falls to a sixteenth, as the weights of a normalised layer shrink, step by step."""
    torch.manual_seed(0)
    before, after = 0.1, 0.1 / 16
    weight = torch.nn.Parameter(torch.randn(2000))
    optimizer = torch.optim.SGD([weight], lr=before, weight_decay=decay)
    rates, norms = [before] * 4000 + [after] * steps, []
    for rate in rates:
        direction = torch.randn(2000)
        direction -= weight.detach() * (direction @ weight.detach()) / weight.detach().square().sum()
        weight.grad = direction / weight.detach().norm()
        norms.append(float(weight.grad.norm()))
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    risen = sum(norms[-20:]) / sum(norms[3900:4000]) * 5
    explained = explained_rise(rates, decay)
    assert 1.0 < risen <= explained * 1.02
    assert risen - 1 > 0.4 * (explained - 1), "the limit is near"


@pytest.mark.parametrize("rates", [[], [0.1] * 50, [0.01, 0.1], [0.0, math.nan]])
def test_nothing_is_explained_where_the_rate_does_not_fall(rates):
    assert explained_rise(rates, 0.5) == 1.0
    assert explained_rise([0.1, 0.001], 0.0) == 1.0
