"""Makers of gradients and streams of norms, and every policy, for the tests of this folder."""

import numpy as np
import pytest
import torch
from torch import nn

from gradwatch.clip import (
    AGC,
    AdaGC,
    AutoClip,
    LayerNormClip,
    NormClip,
    QuantileClip,
    SkipOutliers,
    ValueClip,
    ZClip,
)
from gradwatch.measure import measure

SHAPES = ((3, 4), (5,), (), (2, 3, 2))


def gradients(seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(shape, generator=generator) for shape in SHAPES]


def as_parameters(tensors):
    parameters = []
    for tensor in tensors:
        parameter = nn.Parameter(torch.zeros_like(tensor))
        parameter.grad = tensor.clone()
        parameters.append(parameter)
    return parameters


def clip(policy, parameters):
    return policy.clip(parameters, measure([p.grad for p in parameters]))


def stream(seed, steps=300):
    """Norms of a training: heavy-tailed about a level that drifts."""
    generator = np.random.default_rng(seed)
    return np.exp(np.cumsum(generator.normal(0, 0.02, steps)) + 0.5 * generator.standard_t(3, steps))


def thresholds_of(policy, norms):
    return np.array([float(policy.threshold(torch.tensor(norm, dtype=torch.float64))) for norm in norms])


POLICIES = [
    NormClip(0.5),
    ValueClip(0.5),
    LayerNormClip(0.5),
    AutoClip(10),
    QuantileClip(0.5),
    ZClip(warm_up=3),
    ZClip(warm_up=3, space="log"),
    AGC(0.01),
    AdaGC(start=3),
    SkipOutliers(window=8),
]
by_name = pytest.mark.parametrize("policy", POLICIES, ids=repr)
