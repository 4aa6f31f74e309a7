"""Optimizers of bitsandbytes and torchao whose state has eight bits, against float64 copies around every step.

Nothing here installs them: `pip install --no-deps bitsandbytes torchao` does, beside the pinned torch. Their moments
lie under names or in classes of their own, so the recording takes the update as the difference of the weights.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gradwatch

STEPS = 6
OPTIMIZERS = [
    *(("bitsandbytes.optim", name, "uint8") for name in ("Adam8bit", "AdamW8bit", "Lion8bit", "SGD8bit")),
    *(("torchao.optim", name, "OptimState8bit") for name in ("Adam8bit", "AdamW8bit")),
]


def model_of_long_parameters() -> nn.Module:
    """Both packages keep states of fewer than 4,096 entries in 32 bits."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 64))


def train(model: nn.Module, optimizer: Any) -> np.ndarray:
    """The norm of the change of every parameter, (steps, parameters)."""
    changes = []
    for step in range(STEPS):
        inputs = torch.randn(32, 64, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (model(inputs) - inputs).square().mean().backward()
        before = [weight.detach().double().clone() for weight in model.parameters()]
        optimizer.step()
        pairs = zip(model.parameters(), before, strict=True)
        changes.append([float((weight.detach().double() - old).norm()) for weight, old in pairs])
    return np.array(changes)


@pytest.mark.peers
@pytest.mark.parametrize(("package", "name", "kept_as"), OPTIMIZERS)
def test_the_recorded_update_is_the_change_of_the_weights(
    tmp_path: Path, package: str, name: str, kept_as: str
) -> None:
    optimizers = pytest.importorskip(package, reason=f"{package.partition('.')[0]} is not installed")
    options = {"lr": 1e-3} | ({"momentum": 0.9} if name == "SGD8bit" else {})
    plain = model_of_long_parameters()
    recorded = copy.deepcopy(plain)
    train(plain, getattr(optimizers, name)(plain.parameters(), **options))
    optimizer = getattr(optimizers, name)(recorded.parameters(), **options)
    with gradwatch.attach(recorded, optimizer, tmp_path, weights_every=1):
        changes = train(recorded, optimizer)

    state = optimizer.state[next(recorded.parameters())].values()
    kinds = {type(value).__name__ for value in state} | {str(getattr(value, "dtype", "")) for value in state}
    assert any(kind.endswith(kept_as) for kind in kinds), "the state has no eight bits"
    for one, other in zip(plain.parameters(), recorded.parameters(), strict=True):
        assert torch.equal(one, other), "the recording changed the training"
    run = gradwatch.Run(tmp_path)
    assert run.settings()["update_route"] == "difference"
    assert run.updates("update_norm").empty
    np.testing.assert_allclose(run.layers("update_norm"), changes, rtol=1e-6)
    codes = run.layers("momentum_cosine")[["0.weight", "2.weight"]]
    assert codes.isna().all(axis=None), "eight bits are codes, not a momentum"
