"""What was read at a step is read again at the next one only where it still lies there."""

import copy
import gc
import math
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from gradwatch.measure import measure_updates, updates, updates_kept
from gradwatch.measure.fused import reads_updates

from .updating import change_of, give_gradients, parameters


def test_a_state_that_was_replaced_is_read_anew(route):
    weights = parameters()
    optimizer = torch.optim.Adam(weights, lr=0.05)
    for step in range(2):
        give_gradients(weights, step)
        optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    for weight in weights:
        weight.data = weight.data.clone()
    give_gradients(weights, 2)
    before = [w.detach().double().clone() for w in weights]
    optimizer.step()
    found = measure_updates(optimizer, weights).collect()
    changes = [float((w.detach().double() - b).norm()) for w, b in zip(weights, before, strict=True)]
    np.testing.assert_allclose(found["update_norm"], changes, rtol=2e-4)


def test_parameters_that_change_their_places_in_the_optimizer_are_found_again():
    weights = parameters()
    rates = [{"params": weights[:1], "lr": 0.5}, {"params": weights[1:2], "lr": 0.01}]
    optimizer = torch.optim.SGD(rates, momentum=0.9)

    def check(seen, stepped):
        changes = change_of(weights, optimizer)
        found = measure_updates(optimizer, seen).collect()["update_norm"]
        expected = [changes[at] if at in stepped else math.nan for at in range(len(found))]
        np.testing.assert_allclose(found, expected, rtol=1e-5)

    check(weights, {0, 1})
    first, second = optimizer.param_groups
    first["params"], second["params"] = second["params"], first["params"]
    check(weights, {0, 1})
    check([None, *weights[1:]], {1})  # fewer are asked for
    check([*weights[:1], None, *weights[2:]], {0})  # another
    optimizer.add_param_group({"params": weights[2:]})
    check(weights, {0, 1, 2, 3})
    check(weights[:1], {0})
    first["params"] = []
    check(weights, {0, 2, 3})


def _halve_rates(optimizer):
    for group in optimizer.param_groups:
        group["lr"] = 0.5 * group["lr"]


def _move_weights(optimizer):
    for group in optimizer.param_groups:
        for weight in group["params"]:
            weight.data = weight.data.clone()


def _load_state(optimizer):
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def _use_wider_weights(optimizer):
    for group in optimizer.param_groups:
        for weight in group["params"]:
            weight.data, weight.grad = weight.data.double(), None
    for state in optimizer.state.values():
        state.update({name: moment.double() for name, moment in state.items() if name != "step"})


def _step_one_alone(optimizer):
    weight = optimizer.param_groups[0]["params"][0]
    others = [one for group in optimizer.param_groups for one in group["params"] if one is not weight]
    weight.grad = torch.ones_like(weight)
    for other in others:
        other.grad = None
    optimizer.step()


@pytest.mark.skipif(not reads_updates(), reason="the compiled pass was not built")
@pytest.mark.parametrize(
    ("change", "is_read_again"),
    [
        (None, True),
        (_halve_rates, True),
        (_step_one_alone, True),
        (_move_weights, False),
        (_load_state, False),
        (_use_wider_weights, False),
    ],
)
@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_what_was_read_at_the_step_before_is_read_again_only_where_it_still_lies_there(
    monkeypatch, kind, change, is_read_again
):
    weights = parameters()
    optimizer = kind([{"params": weights[:1], "weight_decay": 0.2}, {"params": weights[1:]}], lr=0.1)
    looks = []
    found_anew = updates.moved_by
    monkeypatch.setattr(updates, "moved_by", lambda *given: looks.append(1) or found_anew(*given))
    for step in range(2):
        give_gradients(weights, step)
        optimizer.step()
        measure_updates(optimizer, weights)
    assert len(looks) == 1
    if change is not None:
        change(optimizer)
    give_gradients(weights, 2)
    before = [weight.detach().double().clone() for weight in weights]
    optimizer.step()
    found = measure_updates(optimizer, weights).table()
    norms = [float((w.detach().double() - b).norm()) for w, b in zip(weights, before, strict=True)]
    np.testing.assert_allclose(found[0], norms, rtol=1e-4)
    # SGD without momentum has no state that `load_state_dict` could put elsewhere.
    assert (len(looks) == 1) == (is_read_again or (kind is torch.optim.SGD and change is _load_state))
    updates_kept._places.clear()
    np.testing.assert_array_equal(found, measure_updates(optimizer, weights).table())


def test_an_optimizer_is_not_kept_alive_by_its_parameters():
    weight = nn.Parameter(torch.ones(3))
    optimizer = weight.own = torch.optim.SGD([weight], lr=0.1)
    weight.grad = torch.ones(3)
    optimizer.step()
    assert measure_updates(optimizer, [weight]) is not None
    gone = weakref.ref(optimizer)
    del optimizer, weight
    gc.collect()
    assert gone() is None
