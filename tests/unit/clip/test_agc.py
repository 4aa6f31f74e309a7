"""`AGC` against the paper's formula, written again in numpy."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from gradwatch.clip import (
    AGC,
)
from gradwatch.errors import BadArgument

from .support import as_parameters, clip


def agc_of_the_paper(weight, gradient, share=0.01, eps=1e-3):
    rows = weight.reshape(len(weight), -1) if weight.ndim > 1 else weight.reshape(1, -1)
    found = gradient.reshape(rows.shape).astype(np.float64).copy()
    for i, row in enumerate(rows):
        most, norm = share * max(np.linalg.norm(row), eps), np.linalg.norm(found[i])
        if norm > most:
            found[i] *= most / max(norm, 1e-6)
    return found.reshape(gradient.shape)


def test_agc_is_the_papers_with_the_units_of_pytorchs_weights():
    generator = torch.Generator().manual_seed(0)
    layers = [nn.Linear(7, 3), nn.Conv2d(2, 4, 3), nn.Embedding(5, 6), nn.LayerNorm(4)]
    parameters = [p for layer in layers for p in layer.parameters()]
    parameters[0].data[1] = 0  # a unit of zeros moves by eps
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator) * 0.02
    expected = [agc_of_the_paper(p.detach().numpy(), p.grad.numpy()) for p in parameters]
    before = math.sqrt(sum(float(p.grad.square().sum()) for p in parameters))
    clipping = clip(AGC(), parameters)
    for parameter, wanted in zip(parameters, expected, strict=True):
        np.testing.assert_allclose(parameter.grad.numpy(), wanted, rtol=1e-5)
    after = math.sqrt(sum(float(p.grad.square().sum()) for p in parameters))
    assert float(clipping.coefficient) == pytest.approx(after / before, rel=1e-5)


def test_agc_leaves_out_what_is_excluded():
    body, head = as_parameters([torch.ones(3, 3), torch.ones(2, 3)])
    AGC(0.01, exclude=[head])([body, head])
    assert float(body.grad.abs().max()) < 1e-4
    assert torch.equal(head.grad, torch.ones(2, 3))


def test_agc_clips_a_sparse_gradient_without_rows_and_refuses_parts_of_rows():
    (weight,) = as_parameters([torch.ones(3, 2)])
    weight.grad = torch.sparse_coo_tensor(torch.zeros(1, 0), torch.zeros(0, 2), (3, 2), check_invariants=True)
    assert float(clip(AGC(), [weight]).coefficient) == 1.0
    weight.grad = torch.ones(3, 2).to_sparse()
    with pytest.raises(BadArgument, match="needs whole rows"):
        AGC()([weight])
