"""Which parameters an optimizer has moved, and which optimizers have a closed form."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor

from gradwatch.measure import closed_form_of, measure_updates

from .updating import give_gradients, parameters


class OwnAdam(torch.optim.Adam):
    """Steps otherwise."""


@pytest.mark.parametrize(
    "make",
    [
        OwnAdam,
        torch.optim.Adagrad,
        torch.optim.RMSprop,
        torch.optim.NAdam,
        torch.optim.RAdam,
        torch.optim.Adamax,
        torch.optim.Adadelta,
        torch.optim.ASGD,
        torch.optim.Rprop,
        torch.optim.SparseAdam,
        torch.optim.LBFGS,
    ],
)
def test_of_other_optimizers_nothing_is_guessed(make):
    weights = [nn.Parameter(torch.ones(2))]
    optimizer = make(weights)
    assert closed_form_of(optimizer) is None
    assert measure_updates(optimizer, weights) is None


def test_parameters_without_a_gradient_are_left_out(route):
    weights = parameters()
    optimizer = torch.optim.Adam(weights)
    give_gradients(weights, 0)
    weights[1].grad = None
    optimizer.step()
    found = measure_updates(optimizer, weights).collect()
    assert np.isnan(found["update_norm"]).tolist() == [False, True, False, False]


def test_of_no_gradient_there_is_no_update():
    weights = parameters()
    optimizer = torch.optim.SGD(weights, lr=0.1)
    assert np.isnan(measure_updates(optimizer, weights).collect()["update_norm"]).all()


def test_empty_parameters_are_left_out(route):
    weights = [nn.Parameter(torch.zeros(0, 3)), nn.Parameter(torch.ones(2))]
    optimizer = torch.optim.SGD(weights, lr=0.1)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert np.isnan(measure_updates(optimizer, weights).collect()["update_norm"]).tolist() == [True, False]


def test_wrapper_subclasses_are_left_out_and_hide_no_other(route):
    """What operators make of them is no plain tensor: read as one, it took the whole step with it."""
    wrapped = nn.Parameter(TwoTensor(torch.ones(5), torch.ones(5)))
    plain = nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = torch.optim.SGD([wrapped, plain], lr=0.5)
    wrapped.sum().backward()
    plain.sum().backward()
    optimizer.step()
    found = measure_updates(optimizer, [wrapped, plain]).collect()
    assert np.isnan(found["update_norm"][0])
    assert found["update_norm"][1] == pytest.approx(0.5 * math.sqrt(2))
