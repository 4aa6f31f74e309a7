"""The update in closed form, compared with float64 copies of the weights and a second moment kept apart."""

import numpy as np
import pytest
import torch

from gradwatch.measure import measure_updates

from .updating import CASES, check_steps, give_gradients, name_of, parameters


@pytest.mark.parametrize(("kind", "options"), CASES, ids=name_of)
def test_the_update_is_the_change_of_the_weights(kind, options, route):
    check_steps(kind, options)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
@pytest.mark.parametrize("options", [{}, {"amsgrad": True}, {"maximize": True, "weight_decay": 0.1}])
def test_a_differentiable_step(kind, options, route):
    """Its weights are no leaves, and the step is part of the graph."""
    leaves = parameters()
    weights = [leaf.clone() for leaf in leaves]
    optimizer = kind(weights, lr=0.05, differentiable=True, **({} if kind is torch.optim.SGD else options))
    for step in range(3):
        give_gradients(weights, step)
        before = [w.detach().double().clone() for w in weights]
        optimizer.step()
        found = measure_updates(optimizer, weights).collect()
        changes = [float((w.detach().double() - b).norm()) for w, b in zip(weights, before, strict=True)]
        np.testing.assert_allclose(found["update_norm"], changes, rtol=2e-4, atol=1e-7)


def test_in_bfloat16_the_update_is_the_one_that_is_meant(route):
    """What arrives is rounded to the weights; the meant one is that of the state as it is stored."""
    weights = parameters(torch.bfloat16)
    optimizer = torch.optim.AdamW(weights, lr=1e-5, weight_decay=0.0)
    for step in range(3):
        give_gradients(weights, step)
        before = [w.detach().clone() for w in weights]
        optimizer.step()
    found = measure_updates(optimizer, weights).collect()
    assert all(torch.equal(w, b) for w, b in zip(weights[:1], before, strict=False))
    for at, weight in enumerate(weights):
        state = optimizer.state[weight]
        first, second = (state[name].double() for name in ("exp_avg", "exp_avg_sq"))
        meant = 1e-5 * (first / (1 - 0.9**3)) / ((second / (1 - 0.999**3)).sqrt() + 1e-8)
        assert found["update_norm"][at] == pytest.approx(float(meant.norm()), rel=1e-4)


@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e12])
def test_sizes_of_gradients_that_float32_squares_lose(scale, route):
    weights = parameters()
    optimizer = torch.optim.SGD(weights, lr=1.0)
    give_gradients(weights, 0, scale)
    optimizer.step()
    found = measure_updates(optimizer, weights).collect()
    np.testing.assert_allclose(found["update_norm"], [float(w.grad.double().norm()) for w in weights], rtol=1e-4)


def test_the_weights_the_state_and_the_random_state_stay_as_they_are(route):
    weights = parameters()
    optimizer = torch.optim.AdamW(weights)
    give_gradients(weights, 0)
    optimizer.step()
    state = [value.clone() for one in optimizer.state.values() for value in one.values()]
    copies, random = [w.detach().clone() for w in weights], torch.get_rng_state()
    measure_updates(optimizer, weights)
    assert all(map(torch.equal, state, [v for one in optimizer.state.values() for v in one.values()]))
    assert all(map(torch.equal, copies, weights))
    assert torch.equal(random, torch.get_rng_state())
