"""A small capture in memory, for examples and tests."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gradwatch.capture.random_state import take_random_state
from gradwatch.capture.record import Capture, Forward, Group


def example_forward(inputs: Tensor) -> Forward:
    """A forward that takes one tensor."""
    return Forward(args=(inputs,), kwargs={}, random_state=take_random_state())


def example_capture(model: nn.Linear, bad_row: int, rows: int = 8) -> Capture:
    """A capture of a linear model's step on ``rows`` rows, one of which has a NaN."""
    inputs = torch.randn(rows, model.in_features, generator=torch.Generator().manual_seed(0))
    inputs[bad_row, 0] = torch.nan
    forward = example_forward(inputs)
    output = model(inputs)
    gradient = torch.ones_like(output) / rows
    gradients = torch.autograd.grad(output, list(model.parameters()), gradient)
    return Capture(
        run="runs/example",
        step=7,
        optimizer="0",
        why="nonfinite",
        groups=(Group(forwards=(Forward(**{**vars(forward), "output_gradients": (gradient,)}),)),),
        weights={name: one.detach().clone() for name, one in model.named_parameters()},
        gradients={name: one for (name, _), one in zip(model.named_parameters(), gradients, strict=True)},
        devices=("cpu",),
    )
