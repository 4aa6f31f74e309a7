"""The settings of each group, and numbers that are tensors."""

import numpy as np
import pytest
import torch

from gradwatch.measure import measure_updates

from .updating import check_steps, give_gradients, parameters


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
def test_each_group_has_its_own_settings(kind, route):
    def groups(weights):
        return [
            {"params": weights[:2], "lr": 0.01, "weight_decay": 0.3},
            {"params": weights[2:3], "lr": 0.2},
            {"params": weights[3:], "weight_decay": 0.0},
        ]

    check_steps(kind, {"weight_decay": 0.1}, groups=groups)


def test_a_capturable_state(route):
    """On the CPU no step may be capturable; what is read are the settings that it leaves, as tensors."""
    weights = parameters()
    optimizer = torch.optim.AdamW(weights, lr=torch.tensor(0.05), weight_decay=0.1)
    for step in range(3):
        give_gradients(weights, step)
        before = [w.detach().double().clone() for w in weights]
        optimizer.step()
        optimizer.param_groups[0]["capturable"] = True
        found = measure_updates(optimizer, weights).collect()
        optimizer.param_groups[0]["capturable"] = False
        changes = [float((w.detach().double() - b).norm()) for w, b in zip(weights, before, strict=True)]
        np.testing.assert_allclose(found["update_norm"], changes, rtol=2e-4, atol=1e-7)


def test_a_rate_of_zero_moves_nothing(route):
    weights = parameters()
    optimizer = torch.optim.AdamW(weights, lr=0.0, weight_decay=0.1)
    give_gradients(weights, 0)
    optimizer.step()
    assert measure_updates(optimizer, weights).collect()["update_norm"].tolist() == [0.0] * 4
