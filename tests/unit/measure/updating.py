"""Steps of optimizers for the tests of updates, and their updates in float64."""

import math

import numpy as np
import torch
from torch import nn

from gradwatch.measure import measure_updates

SHAPES = ((7, 5), (11,), (3, 4, 2), ())


def parameters(dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter((0.3 * torch.randn(shape, generator=generator)).to(dtype)) for shape in SHAPES]


def give_gradients(weights, step, scale=1.0):
    generator = torch.Generator().manual_seed(100 + step)
    for weight in weights:
        gradient = scale * torch.randn(weight.shape, generator=generator)
        weight.grad = gradient.to(weight.dtype)


ADAM: list[dict] = [
    {},
    {"foreach": True},
    {"foreach": False},
    {"fused": True},
    {"amsgrad": True},
    {"amsgrad": True, "fused": True},
    {"maximize": True},
    {"maximize": True, "fused": True, "weight_decay": 0.1},
    {"weight_decay": 0.1},
    {"weight_decay": 0.1, "foreach": True, "amsgrad": True},
    {"lr": torch.tensor(0.02), "fused": True},
    {"lr": torch.tensor(0.02), "weight_decay": 0.1, "foreach": False},
    {"betas": (0.0, 0.5), "eps": 1e-3},
    {"betas": (0.95, 0.999), "eps": 1e-15},
    {"weight_decay": 0.1, "maximize": True},
    {"decoupled_weight_decay": True, "weight_decay": 0.1},
    {"differentiable": False, "weight_decay": 0.5, "fused": True},
]


SGD: list[dict] = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "dampening": 0.5},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    {"weight_decay": 0.1},
    {"maximize": True},
    {"maximize": True, "momentum": 0.9, "weight_decay": 0.1},
    {"momentum": 0.9, "nesterov": True, "maximize": True, "fused": True, "weight_decay": 0.1},
    {"momentum": 0.9, "foreach": True, "dampening": 0.1},
    {"lr": torch.tensor(0.02), "momentum": 0.9, "weight_decay": 0.1},
]


CASES = [
    *((torch.optim.Adam, options) for options in ADAM),
    *((torch.optim.AdamW, options) for options in ADAM if "decoupled_weight_decay" not in options),
    *((torch.optim.SGD, options) for options in SGD),
]


def name_of(value):
    return value.__name__ if isinstance(value, type) else ",".join(f"{k}={v}" for k, v in value.items()) or "plain"


class SecondMoments:
    """Kept in float64 from the gradients alone, by the definition in the paper."""

    def __init__(self, weights):
        self.values = [torch.zeros(w.shape, dtype=torch.float64) for w in weights]
        self.step = 0

    def take(self, weights, group):
        """The RMS ratio and the norm of the root of each, after the gradients of one step."""
        self.step += 1
        beta = float(group["betas"][1])
        decoupled = group.get("decoupled_weight_decay", False)
        found = []
        for value, weight in zip(self.values, weights, strict=True):
            gradient = weight.grad.double() * (-1 if group["maximize"] else 1)
            if not decoupled:
                gradient = gradient + group["weight_decay"] * weight.detach().double()
            value.mul_(beta).add_(gradient.square(), alpha=1 - beta)
            corrected = value / (1 - beta**self.step)
            ratio = (gradient.square() / corrected.clamp(min=group["eps"] ** 2)).mean().sqrt()
            found.append((float(ratio), float(corrected.sqrt().norm())))
        return found


def check_steps(kind, options, *, dtype=torch.float32, tolerance=2e-4, groups=None, steps=3):
    weights = parameters(dtype)
    optimizer = kind(weights if groups is None else groups(weights), **({"lr": 0.05} | options))
    moments = SecondMoments(weights)
    for step in range(steps):
        give_gradients(weights, step)
        before = [w.detach().double().clone() for w in weights]
        by_group = groups is not None or kind is torch.optim.SGD
        expected = None if by_group else moments.take(weights, optimizer.param_groups[0])
        optimizer.step()
        found = measure_updates(optimizer, [None, *weights]).collect()
        changes = [float((w.detach().double() - b).norm()) for w, b in zip(weights, before, strict=True)]
        assert all(math.isnan(values[0]) for values in found.values())
        np.testing.assert_allclose(found["update_norm"][1:], changes, rtol=tolerance, atol=1e-7)
        np.testing.assert_allclose(found["weight_norm"][1:], [float(b.norm()) for b in before], rtol=tolerance)
        if expected is not None:
            np.testing.assert_allclose(found["rms_ratio"][1:], [e[0] for e in expected], rtol=tolerance)
            np.testing.assert_allclose(found["second_moment_norm"][1:], [e[1] for e in expected], rtol=tolerance)
        elif kind is torch.optim.SGD:
            assert np.isnan(found["rms_ratio"]).all()
            assert np.isnan(found["second_moment_norm"]).all()


def change_of(weights, optimizer):
    give_gradients(weights, 7)
    before = [w.detach().double().clone() for w in weights]
    optimizer.step()
    return [float((w.detach().double() - b).norm()) for w, b in zip(weights, before, strict=True)]
