"""Our policies against torch's own functions."""

import math

import pytest
import torch

from gradwatch.clip import NormClip, ValueClip
from gradwatch.errors import BadArgument
from gradwatch.measure import measure


def gradients(seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(shape, generator=generator) for shape in ((3, 4), (5,), ())]


def as_parameters(tensors):
    parameters = []
    for tensor in tensors:
        parameter = torch.nn.Parameter(torch.zeros_like(tensor))
        parameter.grad = tensor.clone()
        parameters.append(parameter)
    return parameters


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_norm_clip_is_torchs(scale):
    ours, theirs = gradients(scale=scale), as_parameters(gradients(scale=scale))
    clipping = NormClip(1.5).clip(ours, measure(ours))
    norm = torch.nn.utils.clip_grad_norm_(theirs, 1.5)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b.grad, rtol=1e-6, atol=0)
    assert clipping.coefficient == pytest.approx(min(1.0, 1.5 / (norm.item() + 1e-6)))


def test_below_the_threshold_nothing_is_touched():
    ours = gradients()
    versions = [g._version for g in ours]
    assert NormClip(1e6).clip(ours, measure(ours)).coefficient == 1.0
    assert [g._version for g in ours] == versions


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_nonfinite_entry_is_not_spread(bad):
    """torch's function makes every gradient NaN, or all finite ones 0."""
    ours = gradients()
    ours[0][0, 0] = bad
    others = [g.clone() for g in ours[1:]]
    NormClip(0.1).clip(ours, measure(ours))
    assert all(torch.equal(a, b) for a, b in zip(ours[1:], others, strict=True))


def test_finite_gradients_of_1e30_are_clipped_not_zeroed():
    ours = [torch.full((4,), 1e30)]
    NormClip(1.0).clip(ours, measure(ours))
    assert torch.linalg.vector_norm(ours[0]).item() == pytest.approx(1.0, rel=1e-5)


def test_value_clip_is_torchs_and_counts_what_it_cut():
    ours, theirs = gradients(), as_parameters(gradients())
    clipping = ValueClip(0.5).clip(ours, measure(ours))
    torch.nn.utils.clip_grad_value_(theirs, 0.5)
    assert all(torch.equal(a, b.grad) for a, b in zip(ours, theirs, strict=True))
    assert sum(int(c) for c in clipping.cut_entries) == sum(int((g.abs() > 0.5).sum()) for g in gradients())


@pytest.mark.parametrize("threshold", [0.0, -1.0, math.nan])
def test_a_threshold_that_can_not_be_meant(threshold):
    with pytest.raises(BadArgument, match="expected a number above 0"):
        NormClip(threshold)
    with pytest.raises(ValueError, match="bad-argument"):
        ValueClip(threshold)


def test_a_device_computes_the_coefficient_by_itself():
    """The way of an accelerator, on the CPU."""
    for values, coefficient in (([3.0, 4.0], 0.2), ([0.3, 0.4], 1.0), ([math.nan, 1.0], 1.0), ([3e20, 4e20], 2e-21)):
        gradients = [torch.tensor(values[:1]), torch.tensor(values[1:])]
        expected = [gradient * coefficient for gradient in gradients]
        clipping = NormClip(1.0)._on_device(gradients, measure(gradients))
        assert float(clipping.coefficient) == pytest.approx(coefficient, rel=1e-5)
        for one, other in zip(gradients, expected, strict=True):
            torch.testing.assert_close(one, other, equal_nan=True)
