"""Tensors in layouts of every kind are read entry by entry as the step has paired them."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from gradwatch.measure import measure_updates

from .updating import name_of


def test_layouts_other_than_row_by_row(route):
    weight = nn.Parameter(torch.randn(4, 3, 5, 6).to(memory_format=torch.channels_last))
    odd = nn.Parameter(torch.randn(6, 5).T)
    optimizer = torch.optim.Adam([weight, odd], lr=0.05)
    before = [w.detach().double().clone() for w in (weight, odd)]
    for one in (weight, odd):
        one.grad = torch.randn(one.shape)  # contiguous, in contrast to the weights
    optimizer.step()
    found = measure_updates(optimizer, [weight, odd]).collect()
    changes = [float((w.detach().double() - b).norm()) for w, b in zip((weight, odd), before, strict=True)]
    np.testing.assert_allclose(found["update_norm"], changes, rtol=1e-4)


ROWS, CHANNELS = torch.contiguous_format, torch.channels_last


def as_in_memory(tensor):
    return torch.as_strided(tensor.detach(), (tensor.numel(),), (1,), tensor.storage_offset()).double().clone()


@pytest.mark.parametrize("others", [{"fused": True}, {"foreach": True}, {"foreach": False}], ids=name_of)
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
@pytest.mark.parametrize("weight_lies", [ROWS, CHANNELS])
@pytest.mark.parametrize("gradient_lies", [ROWS, CHANNELS])
@pytest.mark.parametrize("moment_lies", [ROWS, CHANNELS])
@pytest.mark.parametrize("square_lies", [ROWS, CHANNELS])
def test_moments_that_lie_otherwise_in_memory(
    kind, others, weight_lies, gradient_lies, moment_lies, square_lies, route
):
    """A fused step pairs entries as they lie in memory, the others by their indices."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(4, 3, 5, 6).contiguous(memory_format=weight_lies))
    options = {"lr": 0.05, "weight_decay": 0.1} | ({"momentum": 0.9} if kind is torch.optim.SGD else {})
    optimizer = kind([weight], **options, **others)
    weight.grad = torch.randn(4, 3, 5, 6)
    optimizer.step()
    state = optimizer.state[weight]
    for name, lies in (("exp_avg", moment_lies), ("momentum_buffer", moment_lies), ("exp_avg_sq", square_lies)):
        if name in state:
            state[name] = torch.rand(4, 3, 5, 6).contiguous(memory_format=lies)
    weight.grad = torch.randn(4, 3, 5, 6).contiguous(memory_format=gradient_lies)
    before = weight.detach().double().clone()
    optimizer.step()
    found = measure_updates(optimizer, [weight]).collect()
    assert found["update_norm"][0] == pytest.approx(float((weight.detach().double() - before).norm()), rel=1e-4)
    assert found["weight_norm"][0] == pytest.approx(float(before.norm()), rel=1e-4)
    if kind is torch.optim.AdamW:
        paired = as_in_memory if "fused" in others else torch.Tensor.double
        second = paired(state["exp_avg_sq"]) / (1 - 0.999**2)
        ratio = (paired(weight.grad).square() / second).mean().sqrt()
        assert found["rms_ratio"][0] == pytest.approx(float(ratio), rel=1e-3)


def test_of_a_fused_step_on_a_view_with_gaps_nothing_is_guessed(route):
    """It moves entries that lie between those of the weight, and leaves some of the weight's."""
    weight = nn.Parameter(torch.randn(6, 10)[:, ::2])
    other = nn.Parameter(torch.randn(3))
    optimizer = torch.optim.Adam([weight, other], lr=0.05, fused=True)
    weight.grad, other.grad = torch.randn(6, 5), torch.randn(3)
    before = other.detach().double().clone()
    optimizer.step()
    found = measure_updates(optimizer, [weight, other]).collect()
    assert all(math.isnan(values[0]) for values in found.values())
    assert found["update_norm"][1] == pytest.approx(float((other.detach().double() - before).norm()), rel=1e-4)
    alone = torch.optim.Adam([weight], lr=0.05, fused=True)
    alone.step()
    assert np.isnan(measure_updates(alone, [weight]).collect()["update_norm"]).all()
