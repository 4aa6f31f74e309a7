"""`HiddenStateClip` against backpropagation through time by hand."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from gradwatch.clip import (
    HiddenStateClip,
)
from gradwatch.errors import BadArgument


def rnn_by_hand(inputs, weight, limit):
    """Backpropagation through h_t = tanh(W h_(t-1) + x_t) of sum(h_T), with the error truncated at each step."""
    states = [np.zeros(len(weight))]
    for x in inputs:
        states.append(np.tanh(weight @ states[-1] + x))
    error, gradient = np.ones(len(weight)), np.zeros_like(weight)
    for t in reversed(range(len(inputs))):
        error = np.clip(error, -limit, limit)
        before = error * (1 - states[t + 1] ** 2)
        gradient += np.outer(before, states[t])
        error = weight.T @ before
    return gradient


@pytest.mark.parametrize("limit", [0.5, 3.0, 1e9])
def test_the_error_at_each_hidden_state_is_truncated(limit):
    generator = np.random.default_rng(0)
    inputs, weight = generator.normal(0, 0.1, (12, 4)), generator.normal(0, 1.2, (4, 4))
    parameter = nn.Parameter(torch.tensor(weight))
    truncate, h = HiddenStateClip(limit), torch.zeros(4, dtype=torch.float64)
    for x in torch.tensor(inputs):
        h = truncate(torch.tanh(parameter @ h + x))
    h.sum().backward()
    np.testing.assert_allclose(parameter.grad.numpy(), rnn_by_hand(inputs, weight, limit), rtol=1e-10)
    assert truncate.entries == 48
    assert (truncate.cut > 0) == (limit < 1e9)


def test_it_is_not_clip_grad_value():
    generator = np.random.default_rng(0)
    inputs, weight = generator.normal(0, 0.1, (12, 4)), generator.normal(0, 1.2, (4, 4))
    clamped = np.clip(rnn_by_hand(inputs, weight, 1e9), -0.5, 0.5)
    assert not np.allclose(rnn_by_hand(inputs, weight, 0.5), clamped)


@pytest.mark.parametrize("kind", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
def test_as_a_context_it_truncates_the_cells_and_leaves_them_afterwards(kind):
    torch.manual_seed(0)
    cell = kind(3, 4)

    def gradient(truncate):
        cell.zero_grad()
        state = None
        for x in torch.ones(6, 2, 3):
            state = truncate(cell(x, state))
        (state[0] if isinstance(state, tuple) else state).sum().mul(9).backward()
        return cell.weight_hh.grad.clone()

    wanted = gradient(HiddenStateClip(0.3))
    with HiddenStateClip(0.3).of(cell) as truncate:
        assert torch.equal(gradient(lambda state: state), wanted)
        assert truncate.cut > 0
    plain = gradient(lambda state: state)
    assert not torch.equal(plain, wanted)
    assert torch.equal(plain, gradient(HiddenStateClip(1e9)))


def test_a_module_that_runs_over_the_whole_sequence_is_refused():
    with pytest.raises(BadArgument, match="LSTMCell"):
        HiddenStateClip().of(nn.LSTM(2, 2))


def test_a_state_without_gradient_passes_and_a_nan_stays():
    truncate = HiddenStateClip(1.0)
    start = torch.zeros(2)
    assert truncate(start) is start
    leaf = torch.ones(2, requires_grad=True)
    truncate(leaf * 1).mul(torch.tensor([math.nan, 5.0])).sum().backward()
    assert math.isnan(leaf.grad[0])
    assert float(leaf.grad[1]) == 1.0
