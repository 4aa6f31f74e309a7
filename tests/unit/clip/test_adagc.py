"""`AdaGC` against the paper's algorithm, written again in numpy."""

import math

import numpy as np
import pytest
import torch

from gradwatch.clip import (
    AdaGC,
)

from .support import as_parameters, stream


def adagc_of_the_paper(steps, relative=1.05, beta=0.98, start=100, max_norm=1.0):
    averages, clipped = [math.inf] * len(steps[0]), []
    for t, tensors in enumerate(steps):
        norms = [np.linalg.norm(g) for g in tensors]
        total = math.sqrt(sum(n * n for n in norms))
        out = []
        for i, (g, norm) in enumerate(zip(tensors, norms, strict=True)):
            factor = min(1.0, max_norm / total if t < start else relative * averages[i] / norm)
            left = factor * norm
            averages[i] = min(averages[i], left) if t < start else beta * averages[i] + (1 - beta) * left
            out.append(factor * g)
        clipped.append(out)
    return clipped


def test_adagc_is_the_papers():
    generator = np.random.default_rng(0)
    steps = [[generator.normal(0, s, shape) for shape in ((3, 4), (5,))] for s in stream(6)]
    policy = AdaGC(start=20)
    for tensors, wanted in zip(steps, adagc_of_the_paper(steps, start=20), strict=True):
        parameters = as_parameters([torch.tensor(t) for t in tensors])
        policy(parameters)
        for parameter, expected in zip(parameters, wanted, strict=True):
            np.testing.assert_allclose(parameter.grad.numpy(), expected, rtol=1e-9)


def test_adagc_lets_a_gradient_that_began_at_zero_grow_and_a_parameter_join():
    policy = AdaGC(start=2)
    for size in (0.0, 0.0, 0.0, 0.5, 0.5):
        parameters = as_parameters([torch.full((1,), size), torch.ones(1)])
        policy(parameters)
    assert float(parameters[0].grad) == pytest.approx(0.5)
    policy(as_parameters([torch.ones(1), torch.ones(1), torch.full((1,), 7.0)]))
    assert policy.state_dict()["average"].shape == (3,)


@pytest.mark.parametrize("size", [1e-3, 1e-5, 1e-7, 1e-30])
def test_a_constant_gradient_is_kept_at_any_size(size):
    """1e-6 added to the norm, as the authors' code does, would take a little of it at each step, for good."""
    policy = AdaGC(start=10)
    for _ in range(300):
        small, large = as_parameters([torch.full((4,), size), torch.full((4,), 0.2)])
        policy([small, large])
    np.testing.assert_allclose(small.grad.numpy(), np.full(4, size), rtol=1e-6)


def test_the_start_is_as_many_steps_as_it_says():
    """As in the authors' code, which counts from 1 and compares with <=."""
    policy = AdaGC(start=3)
    sizes = []
    for size in (0.1, 0.1, 0.1, 0.5):
        (parameter,) = as_parameters([torch.tensor([size])])
        policy([parameter])
        sizes.append(float(parameter.grad))
    assert sizes == pytest.approx([0.1, 0.1, 0.1, 0.105])
